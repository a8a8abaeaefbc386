// A safetensors file of whatever header and data a test wants.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace quire::testing {

// `more`: by how much the header says that it is longer than it is.
inline std::string safetensors_of(std::string_view json, std::string_view data = "",
                                  std::uint64_t more = 0) {
  const std::uint64_t length = json.size() + more;
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file.append(json).append(data);
}

inline void write_file(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace quire::testing
