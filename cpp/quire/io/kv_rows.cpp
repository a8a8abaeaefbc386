#include "quire/io/kv_rows.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "quire/base/interruption.h"
#include "quire/format/cache_format.h"

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

// Between a plane's rows of a block and the same rows one after the other: visit(in the plane, in
// the file, bytes).
template <class Visit>
void for_rows(const FilePlane& plane, const BlockRows& block, std::int64_t* offset, Visit visit) {
  const std::int64_t bytes = plane.head_bytes();
  for (std::int64_t row = 0; row < plane.rows_of(block.rows); ++row) {
    std::byte* const at = plane.view.at(block.id, row);
    for (std::int64_t head = 0; head < plane.view.shape[2]; ++head, *offset += bytes) {
      visit(at + head * plane.view.strides[2], *offset, static_cast<std::size_t>(bytes));
    }
  }
}

std::vector<std::int32_t> ids_of(std::span<const BlockRows> blocks) {
  std::vector<std::int32_t> ids;
  for (const BlockRows& block : blocks) ids.push_back(block.id);
  return ids;
}

std::int64_t rows_of(const FilePlane& plane, std::span<const BlockRows> blocks) {
  std::int64_t rows = 0;
  for (const BlockRows& block : blocks) rows += plane.rows_of(block.rows);
  return rows;
}

// Copies the rows of some blocks from a tensor, where they begin at byte `begin`, and returns the
// bytes that it went through.
std::span<const std::byte> read_plane(std::span<const std::byte> tensor, const FilePlane& plane,
                                      std::int64_t begin, std::span<const BlockRows> blocks) {
  std::int64_t offset = begin;
  for (const BlockRows& block : blocks) {
    check_interruption();
    if (block.id < 0) {
      offset += plane.rows_of(block.rows) * plane.row_bytes();
      continue;
    }
    for_rows(plane, block, &offset, [&](std::byte* to, std::int64_t at, std::size_t bytes) {
      std::memcpy(to, tensor.data() + at, bytes);
    });
  }
  return tensor.subspan(begin, offset - begin);
}

// Blocks of a kind that may be used at once: of tiles as many as a stretch of a stream has.
std::int64_t most_at_once(const BlockPool& pool, RowsOf kind) {
  return kind == RowsOf::tiles ? pool.residency().stretch_blocks()
                               : std::numeric_limits<std::int64_t>::max();
}

// What of all blocks is written at once.
struct Step {
  std::size_t begin, end;  // blocks
  std::int64_t layer;
};

// Every layer of some blocks, then of the next ones.
std::vector<Step> steps_of(const BlockPool& pool, RowsOf kind, std::size_t num_blocks) {
  if (num_blocks == 0) return {};
  const FilePlane k = file_planes(pool, kind, 0).front();
  std::int64_t count = std::max<std::int64_t>(1, kChunkBytes / (k.view.shape[1] * k.row_bytes()));
  count = std::min(count, most_at_once(pool, kind));
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

std::vector<TensorSpec> row_tensors(const BlockPool& pool, RowsOf kind, std::int64_t tokens,
                                    std::int64_t blocks) {
  const std::int64_t block_size = pool.geometry().block_size;
  std::vector<TensorSpec> tensors;
  for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
    for (const FilePlane& plane : file_planes(pool, kind, layer)) {
      TensorSpec& tensor = tensors.emplace_back();
      tensor.name = tensor_name(layer, plane.name);
      tensor.dtype = format_of(plane.view.dtype).safetensors_name;
      tensor.shape = {plane.view.shape[1] == block_size ? tokens : blocks, plane.view.shape[2]};
      tensor.shape.insert(tensor.shape.end(), plane.row_shape.begin(), plane.row_shape.end());
    }
  }
  return tensors;
}

std::size_t write_rows(std::string_view where, SafetensorsWriter& writer, std::size_t tensor,
                       const BlockPool& pool, RowsOf kind, std::span<const BlockRows> blocks,
                       const std::function<void(std::size_t)>& done) {
  const std::vector<Step> steps = steps_of(pool, kind, blocks.size());
  std::vector<std::byte> packed;
  std::vector<std::int64_t> rows_written(row_tensors(pool, kind, 0, 0).size());
  const auto write = [&](const Step& step) {
    check_interruption();
    const auto chunk = blocks.subspan(step.begin, step.end - step.begin);
    const std::vector<FilePlane> planes = file_planes(pool, kind, step.layer);
    std::size_t next = static_cast<std::size_t>(step.layer) * planes.size();
    for (const FilePlane& plane : planes) {
      const std::int64_t rows = rows_of(plane, chunk);
      packed.resize(static_cast<std::size_t>(rows * plane.row_bytes()));
      std::int64_t offset = 0;
      for (const BlockRows& block : chunk) {
        for_rows(plane, block, &offset, [&](std::byte* from, std::int64_t at, std::size_t bytes) {
          std::memcpy(packed.data() + at, from, bytes);
        });
      }
      if (const std::string flaw = plane.flaw(packed, rows_written[next]); !flaw.empty()) {
        raise<ValueError>(where, "got ", tensor_name(step.layer, plane.name), " with ", flaw);
      }
      writer.write(tensor + next, packed);
      rows_written[next++] += rows;
    }
  };
  for (std::size_t first = 0; first < steps.size(); first += kStreamSteps) {
    const auto some = std::span(steps).subspan(first, std::min(kStreamSteps, steps.size() - first));
    std::vector<BlockPool::Step> stream;
    for (const Step& step : some) {
      stream.push_back({step.layer, {}});  // open rows are in memory
      if (kind == RowsOf::open_blocks) continue;
      stream.back().blocks = ids_of(blocks.subspan(step.begin, step.end - step.begin));
    }
    pool.use_in_order(stream, [&](std::size_t i) { write(some[i]); });
    const bool whole = some.back().layer + 1 == pool.geometry().num_layers;
    done(whole ? some.back().end : some.back().begin);  // who hears of it may want to stream
  }
  return tensor + rows_written.size();
}

void expect_numbers(const KvFile& file, const BlockPool& pool, RowsOf kind) {
  for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
    for (const FilePlane& plane : file_planes(pool, kind, layer)) {
      if (plane.numbers == FilePlane::Numbers::any) continue;
      const std::string name = tensor_name(layer, plane.name);
      const auto rows = file.bytes(name);
      const auto row_bytes = static_cast<std::size_t>(plane.row_bytes());
      const std::size_t step = std::max<std::size_t>(1, kChunkBytes / row_bytes);  // rows
      for (std::size_t row = 0; row * row_bytes < rows.size(); row += step) {
        check_interruption();
        const std::size_t begin = row * row_bytes;
        const auto some = rows.subspan(begin, std::min(step * row_bytes, rows.size() - begin));
        const std::string flaw = plane.flaw(some, static_cast<std::int64_t>(row));
        if (!flaw.empty()) file.file().refuse("tensor \"", name, "\" with ", flaw);
        file.file().let_go(some);
      }
    }
  }
}

void read_rows(const KvFile& file, const BlockPool& pool, RowsOf kind,
               std::span<const BlockRows> blocks) {
  Residency& residency = pool.residency();
  const auto step = static_cast<std::size_t>(most_at_once(pool, kind));
  for (std::int64_t layer = 0; layer < pool.geometry().num_layers; ++layer) {
    const std::vector<FilePlane> planes = file_planes(pool, kind, layer);
    std::vector<std::int64_t> read(planes.size());  // bytes
    for (std::size_t begin = 0; begin < blocks.size(); begin += step) {
      const auto chunk = blocks.subspan(begin, std::min(step, blocks.size() - begin));
      std::vector<std::int64_t> slabs;  // of tiles; open rows are in memory
      if (kind == RowsOf::tiles) slabs = residency.slabs(layer, ids_of(chunk));
      const auto missing = residency.missing(slabs);
      residency.keep(slabs);
      residency.ask_for(missing);
      residency.bring_in(missing);
      for (std::size_t i = 0; i < planes.size(); ++i) {
        const auto tensor = file.bytes(tensor_name(layer, planes[i].name));
        const auto some = read_plane(tensor, planes[i], read[i], chunk);
        read[i] += std::ssize(some);
        file.file().let_go(some);
      }
      residency.settle(slabs);
    }
  }
  pool.storage().memory().require_written(file.file().function);
}

}  // namespace quire
