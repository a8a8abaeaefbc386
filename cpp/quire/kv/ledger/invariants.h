// The equations that the books of a pool, its tables and its caches keep, and what happens where
// one does not hold.
//
// check() of a class throws InvariantError on the first that fails, whenever somebody asks. Inside
// the operations they are asserted at the end of each that changes something:
//
//   assert(holds([&] { check_block(block); }));
//
// so that a broken equation ends the process where it was broken, and not where it is found. Builds
// without assertions, all releases, have nothing of it; debug builds and those of the sanitizers
// do. What an operation has touched is checked each time; all of the books only where they are
// small, as in most tests, so that an operation on large ones stays what it was, but for a
// constant.
#pragma once

#include <cstdint>
#include <new>

#include "quire/base/check.h"

namespace quire {

// The books contradict themselves, which is a bug of Quire. Python: RuntimeError.
class InvariantError : public Error {
 public:
  using Error::Error;
};

// Numbers that are looked at after each operation, at most, to check all of the books.
inline constexpr std::int64_t kSmallBooks = 256;

// Writes down what is broken, for who reads the end of a process.
void tell_broken(const InvariantError& error) noexcept;

// Whether check() finds nothing; else it has been told. Where there is no memory for the check, it
// finds nothing.
template <class Check>
bool holds(const Check& check) noexcept {
  try {
    check();
  } catch (const InvariantError& error) {
    tell_broken(error);
    return false;
  } catch (const std::bad_alloc&) {
    return true;
  }
  return true;
}

}  // namespace quire
