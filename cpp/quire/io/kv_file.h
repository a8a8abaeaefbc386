// What all of Quire's safetensors files have in common: the metadata that say what they are, of
// which pool, and that they are whole.
//
//   "quire.kind"            "block_table" or "prefix_cache"
//   "quire.format_version"  "1"
//   "quire.block_size" "quire.num_kv_heads" "quire.head_dim" "quire.v_head_dim" "quire.num_layers"
//   "quire.dtype"           as name_of(DType)
//   "quire.shared"          "true" where values are the beginnings of their keys, and there are no
//                           tensors of them; else not there
//   and the checksums of safetensors_writer.h
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/io/file_bytes.h"
#include "quire/io/safetensors_header.h"
#include "quire/io/safetensors_writer.h"
#include "quire/kv/residency/kv_storage.h"

namespace quire {

Metadata kv_metadata(std::string_view kind, const KvGeometry& geometry);

// A file that is being read. Every method throws ValueError, as FileBytes::refuse does, where the
// file is not what it should be.
class KvFile {
 public:
  // Checks the structure, kind, version, header checksum and geometry. `file` outlives this.
  KvFile(const FileBytes& file, std::string_view kind, const KvGeometry& geometry);

  const FileBytes& file() const { return file_; }

  bool has_text(std::string_view key) const { return header_.metadata.contains(key); }
  bool has_tensor(std::string_view name) const { return header_.tensors.contains(name); }

  const std::string& text(std::string_view key) const;
  // Of digits alone, 0 to 2^63 - 1.
  std::int64_t number(std::string_view key) const;

  // A tensor that must be there, of one axis and this dtype.
  std::span<const std::byte> vector_bytes(std::string_view name, std::string_view dtype) const;
  std::vector<std::int64_t> integers(std::string_view name) const;  // I64

  // That these tensors are there, and no others. Then that each has its checksum: reads the file.
  void expect_tensors(const std::vector<TensorSpec>& tensors) const;
  void expect_checksums() const;

  std::span<const std::byte> bytes(std::string_view name) const;

 private:
  const SafetensorsHeader::Tensor& tensor(std::string_view name) const;
  void expect(std::string_view key, std::string_view expected, std::string_view whose) const;
  void expect_header_checksum() const;

  const FileBytes& file_;
  const SafetensorsHeader header_;
};

}  // namespace quire
