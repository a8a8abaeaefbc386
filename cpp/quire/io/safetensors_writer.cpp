#include "quire/io/safetensors_writer.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>

#include "quire/io/safetensors_header.h"

namespace quire {
namespace {

constexpr std::string_view kZeros = "0000000000000000";

std::uint64_t bytes_of(const TensorSpec& spec) {
  std::int64_t bytes = safetensors_item_bytes(spec.dtype);
  for (const std::int64_t axis : spec.shape) bytes *= axis;
  return static_cast<std::uint64_t>(bytes);
}

std::string quoted(std::string_view text) {
  assert(std::all_of(text.begin(), text.end(),
                     [](char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; }));
  return concat("\"", text, "\"");
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(AtomicFile& file, Metadata metadata,
                                     std::vector<TensorSpec> tensors)
    : file_(file), metadata_(std::move(metadata)) {
  for (TensorSpec& spec : tensors) tensors_.emplace_back().spec = std::move(spec);
  // Those of the larger elements come first, so that each is aligned to its own.
  std::vector<std::size_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
    const std::int64_t a_bytes = safetensors_item_bytes(tensors_[a].spec.dtype);
    const std::int64_t b_bytes = safetensors_item_bytes(tensors_[b].spec.dtype);
    return a_bytes != b_bytes ? a_bytes > b_bytes : a < b;
  });
  std::uint64_t end = 0;
  for (const std::size_t i : order) {
    tensors_[i].begin = end;
    end += bytes_of(tensors_[i].spec);
    tensors_[i].end = end;
  }
  data_begin_ = header(kZeros).size();
}

void SafetensorsWriter::write(std::size_t tensor, std::span<const std::byte> bytes) {
  Tensor& to = tensors_[tensor];
  assert(to.written + bytes.size() <= to.end - to.begin);
  to.checksum.add(bytes);
  file_.write_at(data_begin_ + to.begin + to.written, bytes);
  to.written += bytes.size();
}

std::string SafetensorsWriter::header(std::string_view header_checksum) const {
  std::string json =
      concat("{\"__metadata__\":{", quoted(kHeaderChecksum), ":", quoted(header_checksum));
  for (const auto& [key, value] : metadata_) json += concat(",", quoted(key), ":", quoted(value));
  for (const Tensor& tensor : tensors_) {
    json += concat(",", quoted(concat(kTensorChecksum, tensor.spec.name)), ":",
                   quoted(checksum_text(tensor.checksum.value())));
  }
  json += '}';
  for (const Tensor& tensor : tensors_) {
    json += concat(",", quoted(tensor.spec.name), ":{\"dtype\":", quoted(tensor.spec.dtype),
                   ",\"shape\":[");
    for (std::size_t i = 0; i < tensor.spec.shape.size(); ++i) {
      json += concat(i == 0 ? "" : ",", tensor.spec.shape[i]);
    }
    json += concat("],\"data_offsets\":[", tensor.begin, ",", tensor.end, "]}");
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of 8
  std::string length(8, '\0');
  const std::uint64_t size = json.size();
  std::memcpy(length.data(), &size, length.size());
  return length + json;
}

void SafetensorsWriter::finish() {
  assert(std::all_of(tensors_.begin(), tensors_.end(), [](const Tensor& tensor) {
    return tensor.written == tensor.end - tensor.begin;
  }));
  const std::string unsigned_header = header(kZeros);
  const std::uint64_t checksum = xxh64(std::as_bytes(std::span(unsigned_header)));
  const std::string signed_header = header(checksum_text(checksum));
  assert(signed_header.size() == data_begin_);
  file_.write_at(0, std::as_bytes(std::span(signed_header)));
}

}  // namespace quire
