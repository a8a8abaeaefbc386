// TensorFile of tensors that lie in mapped files, in formats that are known.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/io/gguf_header.h"
#include "quire/io/mapped_file.h"
#include "quire/io/tensor_file.h"
#include "quire/io/tensor_format.h"

namespace quire {

class StoredTensors final : public TensorFile {
 public:
  // Whose they are, for messages.
  StoredTensors(std::string_view function, std::string path)
      : function_(function), path_(std::move(path)) {}

  // Maps a file for as long as this lives. Throws as MappedFile.
  const FileBytes& map(const std::string& path);
  // A tensor in a file that is mapped, whose name is new. Of a null format there is no more than
  // its name, dtype and shape.
  void add(const FileBytes& file, std::string name, TensorInfo info, const TensorFormat* format,
           std::span<const std::byte> bytes);
  // All of a GGUF file's tensors, and what it says of itself.
  void add_gguf(const FileBytes& file, GgufHeader header);

  std::vector<std::string> names() const override;
  const TensorInfo* find(std::string_view name) const override;
  std::optional<ArrayView> plain(std::string_view name) const override;
  void read_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                 float* out) const override;
  std::optional<DType> affine_format(std::string_view name) const override;
  void read_affine_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                        const AffineRows& out) const override;
  void let_go(std::string_view name) const override;
  const GgufHeader* gguf() const override { return gguf_ ? &*gguf_ : nullptr; }

 private:
  struct Tensor {
    TensorInfo info;
    const TensorFormat* format;
    std::span<const std::byte> bytes;
    const FileBytes* file;
  };

  const Tensor& tensor(std::string_view name) const;
  // The first block of rows [begin, end), which must be some of the tensor's.
  const std::byte* rows(std::string_view name, const Tensor& tensor, std::int64_t begin,
                        std::int64_t end) const;

  const std::string function_, path_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::optional<GgufHeader> gguf_;
};

}  // namespace quire
