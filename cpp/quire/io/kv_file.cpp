#include "quire/io/kv_file.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "quire/base/interruption.h"

namespace quire {
namespace {

// Of a tensor, between two times that memory is given back.
constexpr std::size_t kReadBytes = 1 << 20;

constexpr const char* kShared = "quire.shared";

std::vector<std::pair<std::string, std::string>> geometry_values(const KvGeometry& geometry) {
  return {{"quire.block_size", concat(geometry.block_size)},
          {"quire.num_kv_heads", concat(geometry.num_kv_heads)},
          {"quire.head_dim", concat(geometry.head_dim)},
          {"quire.v_head_dim", concat(geometry.v_head_dim)},
          {"quire.num_layers", concat(geometry.num_layers)},
          {"quire.dtype", concat(name_of(geometry.dtype))}};
}

}  // namespace

Metadata kv_metadata(std::string_view kind, const KvGeometry& geometry) {
  Metadata metadata = {{"quire.kind", std::string(kind)}, {"quire.format_version", "1"}};
  for (auto& value : geometry_values(geometry)) metadata.push_back(std::move(value));
  if (geometry.shared) metadata.emplace_back(kShared, "true");
  return metadata;
}

KvFile::KvFile(const FileBytes& file, std::string_view kind, const KvGeometry& geometry)
    : file_(file), header_(read_safetensors_header(file)) {
  expect("quire.kind", kind, "");
  expect("quire.format_version", "1", ", which this version of Quire reads");
  expect_header_checksum();
  for (const auto& [key, value] : geometry_values(geometry)) expect(key, value, ", the pool's");
  if (has_text(kShared) == geometry.shared) return;
  constexpr const char *kWithin = "values within their keys",
                       *kApart = "values apart from their keys";
  file_.refuse(geometry.shared ? kApart : kWithin, ", expected ",
               geometry.shared ? kWithin : kApart, ", as the pool's");
}

const std::string& KvFile::text(std::string_view key) const {
  const auto found = header_.metadata.find(key);
  if (found == header_.metadata.end()) {
    file_.refuse("no \"", key, "\" in its metadata, expected a file that Quire saved");
  }
  return found->second.text;
}

std::int64_t KvFile::number(std::string_view key) const {
  const std::string& digits = text(key);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || digits != std::to_string(value) || value < 0) {
    file_.refuse(key, " \"", digits, "\", expected a number, 0 to 2^63 - 1");
  }
  return value;
}

void KvFile::expect(std::string_view key, std::string_view expected, std::string_view whose) const {
  if (const std::string& found = text(key); found != expected) {
    file_.refuse(key, " \"", found, "\", expected \"", expected, "\"", whose);
  }
}

void KvFile::expect_header_checksum() const {
  const std::string& found = text(kHeaderChecksum);
  const std::size_t offset = header_.metadata.find(kHeaderChecksum)->second.offset;
  // Written without an escape, the digits stand in the file as they are.
  const auto place = header_.bytes.subspan(offset, found.size());
  if (found.size() != 16 || std::memcmp(place.data(), found.data(), found.size()) != 0) {
    file_.refuse(kHeaderChecksum, " of ", counted(found.size(), "character"),
                 ", expected 16 digits");
  }
  constexpr char zeros[16] = {'0', '0', '0', '0', '0', '0', '0', '0',
                              '0', '0', '0', '0', '0', '0', '0', '0'};
  Xxh64 sum;
  sum.add(header_.bytes.first(offset));
  sum.add(std::as_bytes(std::span(zeros)));
  sum.add(header_.bytes.subspan(offset + sizeof zeros));
  if (const std::string checksum = checksum_text(sum.value()); checksum != found) {
    file_.refuse("a header with checksum ", checksum, ", expected ", found, ": it is corrupt");
  }
}

const SafetensorsHeader::Tensor& KvFile::tensor(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found == header_.tensors.end()) {
    file_.refuse("no tensor \"", name, "\", expected one");
  }
  return found->second;
}

std::span<const std::byte> KvFile::bytes(std::string_view name) const { return tensor(name).bytes; }

std::span<const std::byte> KvFile::vector_bytes(std::string_view name,
                                                std::string_view dtype) const {
  const SafetensorsHeader::Tensor& found = tensor(name);
  if (found.dtype != dtype || found.shape.size() != 1) {
    file_.refuse("tensor \"", name, "\" ", tensor_text(found.dtype, found.shape), ", expected ",
                 dtype, " [n]");
  }
  return found.bytes;
}

std::vector<std::int64_t> KvFile::integers(std::string_view name) const {
  const auto bytes = vector_bytes(name, "I64");
  std::vector<std::int64_t> values(bytes.size() / sizeof(std::int64_t));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

void KvFile::expect_tensors(const std::vector<TensorSpec>& tensors) const {
  for (const TensorSpec& expected : tensors) {
    const SafetensorsHeader::Tensor& found = tensor(expected.name);
    if (found.dtype != expected.dtype || found.shape != expected.shape) {
      file_.refuse("tensor \"", expected.name, "\" ", tensor_text(found.dtype, found.shape),
                   ", expected ", tensor_text(expected.dtype, expected.shape));
    }
  }
  if (header_.tensors.size() == tensors.size()) return;
  for (const auto& [name, found] : header_.tensors) {
    bool known = false;
    for (const TensorSpec& expected : tensors) known |= expected.name == name;
    if (!known) file_.refuse("tensor \"", name, "\", expected no such tensor");
  }
}

void KvFile::expect_checksums() const {
  for (const auto& [name, found] : header_.tensors) {
    const std::string& expected = text(concat(kTensorChecksum, name));
    Xxh64 sum;
    for (std::size_t begin = 0; begin < found.bytes.size(); begin += kReadBytes) {
      const auto some =
          found.bytes.subspan(begin, std::min(kReadBytes, found.bytes.size() - begin));
      check_interruption();
      sum.add(some);
      file_.let_go(some);
    }
    if (const std::string checksum = checksum_text(sum.value()); checksum != expected) {
      file_.refuse("tensor \"", name, "\" with checksum ", checksum, ", expected ", expected,
                   ": it is corrupt");
    }
  }
}

}  // namespace quire
