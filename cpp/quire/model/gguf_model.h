// Models of GGUF files: their metadata and the names of their tensors, in the words of Hugging
// Face's configurations, which is what all else here knows.
#pragma once

#include <string>
#include <string_view>

#include "quire/io/gguf_header.h"
#include "quire/model/model_config.h"

namespace quire {

// The configuration that the metadata of a file says. Throws ValueError, under the name of
// `function`, where a value is missing, and for an architecture whose files are not known here.
ModelConfig read_gguf_config(std::string_view function, const std::string& path,
                             const GgufHeader& header);

// "blk.3.attn_q.weight" of "layers.3.self_attn.q_proj.weight"; a name that is not known stays.
// `has_late_norms`: whether layers have norms after their parts too, as Gemma's, so that the norm
// before the feed-forward part has another name.
std::string gguf_tensor_name(std::string_view name, bool has_late_norms);

}  // namespace quire
