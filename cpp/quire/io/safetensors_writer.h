// Writes a safetensors file (see safetensors_header.h) whose tensors come in pieces, each tensor's
// in order, with a checksum of everything in the metadata:
//
//   "quire.xxh64.NAME"      of the bytes of tensor NAME
//   "quire.header_xxh64"    of the 8 bytes and the header, this value's digits taken as zeros
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/io/atomic_file.h"
#include "quire/io/xxh64.h"

namespace quire {

inline constexpr std::string_view kHeaderChecksum = "quire.header_xxh64";
inline constexpr std::string_view kTensorChecksum = "quire.xxh64.";

// In printable ASCII without quotes and backslashes, as all names and values here are.
using Metadata = std::vector<std::pair<std::string, std::string>>;

struct TensorSpec {
  std::string name;
  std::string_view dtype;  // safetensors' name
  std::vector<std::int64_t> shape;
};

class SafetensorsWriter {
 public:
  SafetensorsWriter(AtomicFile& file, Metadata metadata, std::vector<TensorSpec> tensors);

  // The next bytes of a tensor. Throws FileError.
  void write(std::size_t tensor, std::span<const std::byte> bytes);
  template <class T>
  void write(std::size_t tensor, const std::vector<T>& values) {
    write(tensor, std::as_bytes(std::span(values)));
  }

  // All tensors are complete: writes the header. The file is then to be committed.
  void finish();

 private:
  struct Tensor {
    TensorSpec spec;
    std::uint64_t begin = 0, end = 0;  // after the header
    std::uint64_t written = 0;
    Xxh64 checksum;
  };

  // As long before the checksums are known as after.
  std::string header(std::string_view header_checksum) const;

  AtomicFile& file_;
  const Metadata metadata_;
  std::vector<Tensor> tensors_;
  std::uint64_t data_begin_ = 0;
};

}  // namespace quire
