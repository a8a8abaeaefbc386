// The weights of a model as files hold them: one face of a safetensors file, a folder of several,
// and a GGUF file.
//
// A tensor is rows, those of its last axis: [2, 3, 4] has 6 rows of 4 numbers. Rows are asked for
// by their range, so that a tensor need never be in memory as a whole. The files are mapped: what
// is read lies in the page cache, and let_go() takes it out of this process's memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/array_view.h"

namespace quire {

struct GgufHeader;

struct TensorInfo {
  std::string dtype;                // "F32", "BF16", "Q4_K", ...: as the file's format calls it
  std::vector<std::int64_t> shape;  // row-major: the last axis is contiguous

  std::int64_t num_rows() const;     // 1 of a tensor without axes
  std::int64_t num_columns() const;  // 1 likewise
};

// Rows of whole numbers that stand for scale * number + offset, with the scale and the offset of
// each 32 of a row. Both are what the file says, exactly.
struct AffineRows {
  std::int8_t* numbers;  // [rows, columns]
  float* scales;         // [rows, columns / 32]
  float* offsets;        // likewise
};
inline constexpr std::int64_t kAffineGroup = 32;

class TensorFile {
 public:
  TensorFile() = default;
  virtual ~TensorFile() = default;
  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  // In the order of their bytes.
  virtual std::vector<std::string> names() const = 0;
  // Null where there is no such tensor.
  virtual const TensorInfo* find(std::string_view name) const = 0;

  // The mapped numbers, read-only, of F32, F16 and BF16 of at most 5 axes that lie in the file as
  // memory wants them; else nullopt. Valid as long as this lives.
  virtual std::optional<ArrayView> plain(std::string_view name) const = 0;

  // Rows [begin, end) as float32, of any format that is known, dequantised; out [end - begin,
  // columns]. All methods with a name throw ValueError where there is no such tensor, and this one
  // where its dtype is not one whose numbers are read; IndexError for other rows.
  virtual void read_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                         float* out) const = 0;

  // What the numbers of a tensor that is AffineRows fit into: int4, 0 to 15, of Q4_0, Q4_1 and
  // Q4_K; int8 of Q5_0, Q5_1, Q5_K, Q8_0, IQ4_NL and IQ4_XS. They are read as such. nullopt of
  // others.
  virtual std::optional<DType> affine_format(std::string_view name) const = 0;
  virtual void read_affine_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                                const AffineRows& out) const = 0;

  // That these rows are not needed soon. They come back from the file when they are read again.
  virtual void let_go(std::string_view name) const = 0;

  // What a GGUF file says of itself; null for others.
  virtual const GgufHeader* gguf() const { return nullptr; }
};

// A GGUF file, a safetensors file, or a folder with model.safetensors, or with
// model.safetensors.index.json and the files that it names. Throws, as `function`, FileError where
// the system refuses and ValueError where a file is not what it should be.
std::unique_ptr<TensorFile> open_tensor_file(std::string_view function, const std::string& path);

}  // namespace quire
