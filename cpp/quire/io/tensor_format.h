// How the numbers of a tensor lie in a file: one by one, or in blocks of them with scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/io/tensor_file.h"

namespace quire {

// What a block is as affine numbers: all of them, and a scale and an offset for each 32.
using ReadAffineBlock = void (*)(const std::byte* block, const AffineRows& to);

struct TensorFormat {
  std::string_view name;           // as TensorInfo::dtype
  std::int64_t block_numbers = 1;  // of one row
  std::int64_t block_bytes = 1;
  void (*read)(const std::byte* block, float* to) = nullptr;  // null: its numbers are not read
  ReadAffineBlock read_affine = nullptr;                      // null: they are not affine
  DType affine = DType::int8;                                 // what the affine numbers fit into

  // Of whole blocks.
  std::int64_t bytes_of(std::int64_t numbers) const {
    return numbers / block_numbers * block_bytes;
  }
};

// F32, F16 and BF16; null for another name.
const TensorFormat* plain_format(std::string_view name);

}  // namespace quire
