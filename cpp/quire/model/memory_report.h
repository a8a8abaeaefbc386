// What the weights of a model take in memory, and what became of each format that they were stored
// in.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace quire {

struct MemoryReport {
  struct Line {
    std::int64_t tensors = 0;
    std::int64_t numbers = 0;  // of all tensors
    std::int64_t bytes = 0;    // in memory
  };

  // By the format in the file and the one in memory: ("BF16", "int4"), ("F32", "float32").
  std::map<std::pair<std::string, std::string>, Line> lines;

  std::int64_t bytes() const {
    std::int64_t sum = 0;
    for (const auto& [formats, line] : lines) sum += line.bytes;
    return sum;
  }
};

}  // namespace quire
