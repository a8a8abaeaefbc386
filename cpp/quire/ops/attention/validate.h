// Every check of the user's arguments, once, before any implementation runs.
#pragma once

#include <string_view>

#include "quire/ops/attention/merge_states.h"
#include "quire/ops/attention/paged_attention.h"
#include "quire/ops/cache/write_kv.h"

namespace quire {

// These throw ValueError (shape, value, memory), or IndexError (block id, slot), with a message
// that names function, argument, place and value. What they let pass, no implementation reads or
// writes out of bounds.
void validate(const PagedAttentionArgs& args, std::string_view function = "paged_attention");
// Of these: all but the contents of index arrays; and then those.
void validate_arrays(const PagedAttentionArgs& args, std::string_view function);
void validate_indices(const PagedAttentionArgs& args, std::string_view function);
void validate(const WriteKvArgs& args, std::string_view function = "write_kv");
void validate(const MergeStatesArgs& args, std::string_view function = "merge_states");

}  // namespace quire
