// Rows of a weight by their numbers: an embedding, also one that is multiplied by as well.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "quire/base/array_view.h"
#include "quire/ops/linear/weight.h"

namespace quire {

// out[t] = w[ids[t]] for each of T ids: out [T, K], plain floats with a contiguous last axis. A
// packed weight's numbers are those that are multiplied, rounded to float32 (unpack_weight), then
// to out's dtype. Throws ValueError or TypeError for other arrays, and IndexError for an id that is
// no row of w, before anything is written.
void take_rows(const Weight& weight, std::span<const std::int64_t> ids, const ArrayView& out,
               std::string_view function = "take_rows");
// The same of an array w [N, K], plain floats.
void take_rows(const ArrayView& w, std::span<const std::int64_t> ids, const ArrayView& out,
               std::string_view function = "take_rows");

}  // namespace quire
