// The header of a GGUF file (github.com/ggml-org/ggml, docs/gguf.md): what it says of itself, and
// which tensors it has. All numbers are little-endian.
//
//   "GGUF", version (uint32, 2 or 3), number of tensors (uint64), of values (uint64)
//   each value    its key (text), its type (uint32), the value
//   each tensor   its name (text), number of axes (uint32), their lengths (uint64 each, the
//                 contiguous axis first), its type (uint32), where it begins (uint64)
//   padding to "general.alignment" (uint32, 32 where it is not said)
//   the tensors, each at its place counted from here, which is a multiple of the alignment
//
// A text is its length (uint64) and its bytes, an array the type of its values (uint32), their
// number (uint64) and the values. The file may be anybody's: what is not exactly this is refused,
// with the place and the reason. Tensors may leave gaps, and do not overlap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "quire/io/file_bytes.h"
#include "quire/io/gguf_value.h"
#include "quire/io/tensor_format.h"

namespace quire {

struct GgufHeader {
  struct Tensor {
    const TensorFormat* format = nullptr;
    std::vector<std::int64_t> shape;   // row-major: the contiguous axis last
    std::span<const std::byte> bytes;  // of the file
  };

  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, Tensor, std::less<>> tensors;

  // The value of a key; null where there is none.
  const GgufValue* find(std::string_view key) const {
    const auto found = metadata.find(key);
    return found == metadata.end() ? nullptr : &found->second;
  }
};

inline constexpr std::string_view kGgufMagic = "GGUF";

// Throws ValueError, as FileBytes::refuse does. The file outlives the header, and the memory this
// needs is in proportion to the number of its values and tensors.
GgufHeader read_gguf_header(const FileBytes& file);

}  // namespace quire
