// The header of a safetensors file (https://huggingface.co/docs/safetensors): which tensors it has.
//
//   8 bytes    N, little-endian
//   N bytes    JSON: {"__metadata__": {"key": "value", ...},
//                     "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
//   the rest   the tensors, each at its offsets, without a gap or an overlap
//
// The file may be anybody's: what is not exactly this is refused, with the place and the reason.
// Nothing is taken on trust, and the memory this needs is in proportion to the header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/io/file_bytes.h"

namespace quire {

// Before the JSON, which always begins with "{".
inline constexpr std::size_t kSafetensorsLengthBytes = 8;

// Bytes of one element; 0 for a name that safetensors does not know.
std::int64_t safetensors_item_bytes(std::string_view dtype);

// "F32 [2, 3]".
std::string tensor_text(std::string_view dtype, std::span<const std::int64_t> shape);

struct SafetensorsHeader {
  struct Tensor {
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  // of the file
  };
  struct Value {
    std::string text;
    std::size_t offset = 0;  // in the file, of the first byte after the quote
  };

  std::map<std::string, Tensor, std::less<>> tensors;
  std::map<std::string, Value, std::less<>> metadata;
  std::span<const std::byte> bytes;  // the 8 bytes and the JSON
};

// Throws ValueError, as FileBytes::refuse does.
SafetensorsHeader read_safetensors_header(const FileBytes& file);

}  // namespace quire
