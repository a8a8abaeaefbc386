// Token ids, as Python has them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "arguments.h"

namespace quire::python {

// Of an array of int32 or int64, [n], or of an iterable of ints. A copy. Throws TypeError, and
// ValueError for another shape or an int beyond 64 bits.
std::vector<std::int64_t> to_token_ids(Argument argument, pybind11::handle object);

}  // namespace quire::python
