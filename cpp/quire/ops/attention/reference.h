// The reference: float64, plain loops, one key at a time. It shares nothing with the fast
// implementations but the meaning of the arguments (paged_attention.h), and is what they are held
// to.
#pragma once

#include "quire/ops/attention/paged_attention.h"

namespace quire {

// Checked arguments (validate.h). Scores, softmax and sums in float64; an output is rounded to
// float32 and from there to its dtype.
void reference_attention(const PagedAttentionArgs& args);

}  // namespace quire
