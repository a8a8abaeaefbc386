#include "quire/io/kv_rows.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace quire {
namespace {

// Of a tensor, written at once: enough that a call of the system costs little.
constexpr std::int64_t kChunkBytes = 1 << 20;

// Steps of one stream: enough that its beginning costs little, and few enough that others who want
// to stream need not wait for long.
constexpr std::size_t kStreamSteps = 64;

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

std::vector<std::int32_t> ids_of(std::span<const BlockRows> blocks) {
  std::vector<std::int32_t> ids;
  for (const BlockRows& block : blocks) ids.push_back(block.id);
  return ids;
}

std::int64_t rows_of(std::span<const BlockRows> blocks) {
  std::int64_t rows = 0;
  for (const BlockRows& block : blocks) rows += block.rows;
  return rows;
}

// Copies the rows of some blocks from a tensor, which has `first_row` rows before them, and returns
// the bytes that it went through.
std::span<const std::byte> read_plane(std::span<const std::byte> tensor, const ArrayView& plane,
                                      std::int64_t first_row, std::span<const BlockRows> blocks) {
  const std::int64_t token_bytes = plane.shape[2] * row_bytes(plane);
  const std::int64_t begin = first_row * token_bytes;
  std::int64_t offset = begin;
  for (const BlockRows& block : blocks) {
    if (block.id < 0) {
      offset += block.rows * token_bytes;
      continue;
    }
    for_rows(plane, block, &offset, [&](std::byte* to, std::int64_t at, std::size_t bytes) {
      std::memcpy(to, tensor.data() + at, bytes);
    });
  }
  return tensor.subspan(begin, offset - begin);
}

// What of all blocks is written at once.
struct Step {
  std::size_t begin, end;  // blocks
  std::int64_t layer;
};

// Every layer of some blocks, then of the next ones.
std::vector<Step> steps_of(const BlockPool& pool, std::size_t num_blocks) {
  const ArrayView k = pool.storage().k_cache(0);
  std::int64_t count =
      std::max<std::int64_t>(1, kChunkBytes / (k.shape[1] * k.shape[2] * row_bytes(k)));
  if (pool.residency() != nullptr) count = std::min(count, pool.residency()->stretch_blocks());
  std::vector<Step> steps;
  for (std::size_t begin = 0; begin < num_blocks;) {
    const std::size_t end = std::min(num_blocks, begin + static_cast<std::size_t>(count));
    for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
      steps.push_back({begin, end, layer});
    }
    begin = end;
  }
  return steps;
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

void write_rows(SafetensorsWriter& writer, std::size_t tensor, const BlockPool& pool,
                std::span<const BlockRows> blocks, const std::function<void(std::size_t)>& done) {
  const std::vector<Step> steps = steps_of(pool, blocks.size());
  std::vector<std::byte> packed;
  const auto write = [&](const Step& step) {
    const auto chunk = blocks.subspan(step.begin, step.end - step.begin);
    const KvPlanes planes = pool.storage().planes(step.layer);
    std::size_t next = tensor + static_cast<std::size_t>(step.layer) * planes.size();
    for (const auto& [name, plane] : planes) {
      packed.resize(static_cast<std::size_t>(rows_of(chunk) * plane.shape[2] * row_bytes(plane)));
      std::int64_t offset = 0;
      for (const BlockRows& block : chunk) {
        for_rows(plane, block, &offset, [&](std::byte* from, std::int64_t at, std::size_t bytes) {
          std::memcpy(packed.data() + at, from, bytes);
        });
      }
      writer.write(next++, packed);
    }
  };
  for (std::size_t first = 0; first < steps.size(); first += kStreamSteps) {
    const auto some = std::span(steps).subspan(first, std::min(kStreamSteps, steps.size() - first));
    std::vector<BlockPool::Step> stream;
    for (const Step& step : some) {
      stream.push_back({step.layer, ids_of(blocks.subspan(step.begin, step.end - step.begin))});
    }
    pool.use_in_order(stream, [&](std::size_t i) { write(some[i]); });
    const bool whole = some.back().layer + 1 == pool.geometry().num_layers;
    done(whole ? some.back().end : some.back().begin);  // who hears of it may want to stream
  }
}

void read_rows(const KvFile& file, const BlockPool& pool, std::span<const BlockRows> blocks) {
  Residency* const residency = pool.residency();
  const auto step = residency == nullptr ? std::max<std::size_t>(1, blocks.size())
                                         : static_cast<std::size_t>(residency->stretch_blocks());
  for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
    std::int64_t first_row = 0;
    for (std::size_t begin = 0; begin < blocks.size(); begin += step) {
      const auto chunk = blocks.subspan(begin, std::min(step, blocks.size() - begin));
      std::vector<std::int64_t> slabs;
      if (residency != nullptr) {
        slabs = residency->slabs(layer, ids_of(chunk));
        const auto missing = residency->missing(slabs);
        residency->keep(slabs);
        residency->ask_for(missing);
        residency->bring_in(missing);
      }
      for (const auto& [name, plane] : pool.storage().planes(layer)) {
        const auto packed = file.bytes(tensor_name(layer, name));
        file.file().let_go(read_plane(packed, plane, first_row, chunk));
      }
      if (residency != nullptr) residency->settle(slabs);
      first_row += rows_of(chunk);
    }
  }
  pool.storage().memory().require_written(file.file().function);
}

}  // namespace quire
