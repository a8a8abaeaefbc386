#include "quire/io/kv_rows.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace quire {
namespace {

// Of a tensor, written at once: enough that a call of the system costs little.
constexpr std::int64_t kChunkBytes = 1 << 20;

std::string tensor_name(std::int64_t layer, std::string_view plane) {
  return concat("layers.", layer, ".", plane);
}

std::int64_t row_bytes(const ArrayView& plane) { return plane.shape[3] * plane.strides[3]; }

// Between a plane's rows of a block and the same rows one after the other: visit(in the plane, in
// the file, bytes).
template <class Visit>
void for_rows(const ArrayView& plane, const BlockRows& block, std::int64_t* offset, Visit visit) {
  const std::int64_t bytes = row_bytes(plane);
  for (std::int64_t row = 0; row < block.rows; ++row) {
    std::byte* const at = plane.at(block.id, row);
    for (std::int64_t head = 0; head < plane.shape[2]; ++head, *offset += bytes) {
      visit(at + head * plane.strides[2], *offset, static_cast<std::size_t>(bytes));
    }
  }
}

}  // namespace

std::vector<TensorSpec> row_tensors(const KvStorage& storage, std::int64_t rows) {
  std::vector<TensorSpec> tensors;
  for (std::int64_t layer = 0; layer < storage.geometry().num_layers; ++layer) {
    for (const auto& [name, plane] : storage.planes(layer)) {
      tensors.push_back({tensor_name(layer, name),
                         safetensors_name(plane.dtype),
                         {rows, plane.shape[2], plane.shape[3]}});
    }
  }
  return tensors;
}

void write_rows(SafetensorsWriter& writer, std::size_t tensor, const KvStorage& storage,
                std::span<const BlockRows> blocks, const std::function<void(std::size_t)>& done) {
  std::vector<std::byte> packed;
  for (std::size_t begin = 0; begin < blocks.size();) {
    const ArrayView k = storage.k_cache(0);
    const std::int64_t block_bytes = k.shape[1] * k.shape[2] * row_bytes(k);
    const std::int64_t count = std::max<std::int64_t>(1, kChunkBytes / block_bytes);
    const std::size_t end = std::min(blocks.size(), begin + static_cast<std::size_t>(count));
    const auto chunk = blocks.subspan(begin, end - begin);
    std::size_t next = tensor;
    for (std::int64_t layer = 0; layer < storage.geometry().num_layers; ++layer) {
      for (const auto& [name, plane] : storage.planes(layer)) {
        std::int64_t size = 0;
        for (const BlockRows& block : chunk) size += block.rows;
        packed.resize(static_cast<std::size_t>(size * plane.shape[2] * row_bytes(plane)));
        std::int64_t offset = 0;
        for (const BlockRows& block : chunk) {
          for_rows(plane, block, &offset, [&](std::byte* from, std::int64_t at, std::size_t bytes) {
            std::memcpy(packed.data() + at, from, bytes);
          });
        }
        writer.write(next++, packed);
      }
    }
    begin = end;
    done(end);
  }
}

void read_rows(const KvFile& file, const KvStorage& storage, std::span<const BlockRows> blocks) {
  for (std::int64_t layer = 0; layer < storage.geometry().num_layers; ++layer) {
    for (const auto& [name, plane] : storage.planes(layer)) {
      const std::byte* const packed = file.bytes(tensor_name(layer, name)).data();
      std::int64_t offset = 0;
      for (const BlockRows& block : blocks) {
        if (block.id < 0) {
          offset += block.rows * plane.shape[2] * row_bytes(plane);
          continue;
        }
        for_rows(plane, block, &offset, [&](std::byte* to, std::int64_t at, std::size_t bytes) {
          std::memcpy(to, packed + at, bytes);
        });
      }
    }
  }
}

}  // namespace quire
