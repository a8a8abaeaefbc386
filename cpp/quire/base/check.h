// Errors. A user's mistake throws one of these classes; a mistake of ours is an assert().
//
// Every message reads "function: argument: got ..., expected ...", naming the place of a bad entry.
#pragma once

#include <charconv>
#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>

namespace quire {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A wrong shape or value. Python: ValueError.
class ValueError : public Error {
 public:
  using Error::Error;
};

// A wrong type or dtype. Python: TypeError.
class TypeError : public Error {
 public:
  using Error::Error;
};

// An index out of range. Python: IndexError.
class IndexError : public Error {
 public:
  using Error::Error;
};

// The pool has fewer free blocks than were asked for; nothing was changed. Python: OutOfBlocks.
class OutOfBlocks : public Error {
 public:
  using Error::Error;
};

// Appends text, or a number as briefly as it can be read back. Not by streams: their locales make
// two copies of the C++ library in one process, as Python modules bring along, fall over each
// other.
inline void append(std::string& text, std::string_view part) { text += part; }
template <class Number>
  requires std::integral<Number> || std::floating_point<Number>
void append(std::string& text, Number number) {
  char digits[64];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

// All parts one after the other.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

// "1 block", "2 blocks".
template <class Number>
std::string counted(Number n, std::string_view noun) {
  return concat(n, " ", noun, n == Number{1} ? "" : "s");
}

// raise<IndexError>("write_kv: slot_mapping", "got ", slot, " at row ", row, ", expected ...").
// The message is built only here, so a check costs nothing while it holds.
template <class E, class... Parts>
[[noreturn]] [[gnu::cold]] [[gnu::noinline]] void raise(std::string_view place,
                                                        const Parts&... parts) {
  throw E(concat(place, ": ", parts...));
}

// "function: argument", the place that every message starts with.
inline std::string place(std::string_view function, std::string_view argument) {
  return concat(function, ": ", argument);
}

}  // namespace quire
