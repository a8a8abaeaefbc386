// What a call was given that takes room in a pool, for the message where there is none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/base/check.h"

namespace quire {

struct Asked {
  std::string_view function, argument;
  std::int64_t value;
  std::int64_t index = -1;  // of the value in what was given, where that is a list

  std::string text() const {
    return index < 0 ? concat(value) : concat(value, " at index ", index);
  }
};

}  // namespace quire
