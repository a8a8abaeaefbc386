// What a call was given that takes room in a pool, for the message where there is none.
#pragma once

#include <cstdint>
#include <string_view>

namespace quire {

struct Asked {
  std::string_view function, argument;
  std::int64_t value;
};

}  // namespace quire
