#include "quire/io/stored_tensors.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "quire/base/check.h"
#include "quire/io/safetensors_header.h"

namespace quire {

const FileBytes& StoredTensors::map(const std::string& path) {
  files_.push_back(std::make_unique<MappedFile>(function_, path, true));
  return files_.back()->contents();
}

void StoredTensors::add(const FileBytes& file, std::string name, TensorInfo info,
                        const TensorFormat* format, std::span<const std::byte> bytes) {
  tensors_.emplace(std::move(name), Tensor{std::move(info), format, bytes, &file});
}

void StoredTensors::add_gguf(const FileBytes& file, GgufHeader header) {
  for (const auto& [name, tensor] : header.tensors) {
    add(file, name, {std::string(tensor.format->name), tensor.shape}, tensor.format, tensor.bytes);
  }
  gguf_ = std::move(header);
}

std::vector<std::string> StoredTensors::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

const TensorInfo* StoredTensors::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second.info;
}

const StoredTensors::Tensor& StoredTensors::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  raise<ValueError>(place(function_, "path"), "got ", path_, ": no tensor \"", name,
                    "\", expected one");
}

const std::byte* StoredTensors::rows(std::string_view name, const Tensor& tensor,
                                     std::int64_t begin, std::int64_t end) const {
  const std::int64_t count = tensor.info.num_rows();
  if (begin < 0 || begin > end || end > count) {
    raise<IndexError>(place(function_, "rows"), "got [", begin, ", ", end, ") of tensor \"", name,
                      "\" of ", tensor.file->path, ", expected some of [0, ", count, ")");
  }
  return tensor.bytes.data() + tensor.format->bytes_of(begin * tensor.info.num_columns());
}

std::optional<ArrayView> StoredTensors::plain(std::string_view name) const {
  const Tensor& it = tensor(name);
  std::optional<DType> dtype;
  for (const auto& [text, plain] :
       {std::pair("F32", DType::float32), std::pair("F16", DType::float16),
        std::pair("BF16", DType::bfloat16)}) {
    if (it.info.dtype == text) dtype = plain;
  }
  if (!dtype || it.info.shape.size() > kMaxDims ||
      reinterpret_cast<std::uintptr_t>(it.bytes.data()) % size_of(*dtype) != 0) {
    return std::nullopt;
  }
  return contiguous_view(const_cast<std::byte*>(it.bytes.data()), *dtype, it.info.shape, false);
}

void StoredTensors::read_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                              float* out) const {
  const Tensor& it = tensor(name);
  if (it.format == nullptr || it.format->read == nullptr) {
    it.file->refuse("tensor \"", name, "\" of ", tensor_text(it.info.dtype, it.info.shape),
                    ", expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, "
                    "IQ4_NL or IQ4_XS, whose numbers are read");
  }
  const std::byte* block = rows(name, it, begin, end);
  const std::int64_t numbers = (end - begin) * it.info.num_columns();
  for (std::int64_t i = 0; i < numbers; i += it.format->block_numbers) {
    it.format->read(block, out + i);
    block += it.format->block_bytes;
  }
}

std::optional<DType> StoredTensors::affine_format(std::string_view name) const {
  const TensorFormat* const format = tensor(name).format;
  if (format == nullptr || format->read_affine == nullptr) return std::nullopt;
  return format->affine;
}

void StoredTensors::read_affine_rows(std::string_view name, std::int64_t begin, std::int64_t end,
                                     const AffineRows& out) const {
  const Tensor& it = tensor(name);
  if (!affine_format(name)) {
    it.file->refuse(
        "tensor \"", name, "\" of ", tensor_text(it.info.dtype, it.info.shape),
        ", expected Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q8_0, IQ4_NL or IQ4_XS, which are affine");
  }
  const std::byte* block = rows(name, it, begin, end);
  const std::int64_t numbers = (end - begin) * it.info.num_columns();
  for (std::int64_t i = 0; i < numbers; i += it.format->block_numbers) {
    const std::int64_t group = i / kAffineGroup;
    it.format->read_affine(block, {out.numbers + i, out.scales + group, out.offsets + group});
    block += it.format->block_bytes;
  }
}

void StoredTensors::let_go(std::string_view name) const {
  const Tensor& it = tensor(name);
  if (!it.bytes.empty()) it.file->let_go(it.bytes);
}

}  // namespace quire
