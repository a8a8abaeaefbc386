// The options that all functions of attention have, each described once: its name, its default and
// what help() says of it. Signatures, docstrings and calls are made from this.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

#include "fast_function.h"

namespace quire::python {

// As a call gives them. AttentionCall (attention_call.h) says what they mean.
struct AttentionOptions {
  pybind11::handle cu_seqlens_q, key_positions, causal, tree_mask, scale, sliding_window,
      num_sink_tokens, softcap, alibi_slopes, sinks, k_scale, v_scale, cache_dtype, layout, out,
      return_lse, return_block_mass, implementation, num_threads;
};

inline constexpr std::size_t kNumAttentionOptions =
    sizeof(AttentionOptions) / sizeof(pybind11::handle);

// For FastFunction: the last parameters of a signature.
ParameterList attention_options();
template <>
struct Taken<const AttentionOptions&> {
  static constexpr std::size_t kValues = kNumAttentionOptions;
  static AttentionOptions from(const pybind11::handle* values);
};

// The docstrings of functions that have them; they live as long as the program.
const char* paged_attention_doc();
const char* attend_doc();
const char* step_attend_doc();

}  // namespace quire::python
