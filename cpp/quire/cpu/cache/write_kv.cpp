#include "quire/ops/cache/write_kv.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/cache/block_sealer.h"
#include "quire/cpu/cache/row_magnitudes.h"
#include "quire/cpu/cache/row_quantiser.h"
#include "quire/cpu/cache/row_writer.h"
#include "quire/cpu/cache/stream_copy.h"
#include "quire/cpu/operations.h"
#include "quire/format/cache_format.h"
#include "quire/ops/attention/validate.h"

namespace quire {
namespace {

// Bytes written that pay for one more thread.
constexpr std::int64_t kBytesPerThread = 256 * 1024;

// From here on a call streams: it would drive more from a core's caches than it leaves there for
// the attention that follows.
constexpr std::int64_t kStreamedBytes = 1024 * 1024;

// Slots that one thread writes, in the order of rows: of two rows with one slot the last wins,
// however many threads there are. A large block is several such segments.
constexpr std::int64_t kMostSlotsOfSegment = 64;

// Threads take parts of a call as they come, several for each.
constexpr std::int64_t kPartsPerThread = 8;

// Runs that a thread writes between two looks for an interruption.
constexpr std::int64_t kRunsPerLook = 16;

struct Run {
  SlotRun slots;        // of one segment
  std::uint32_t mixed;  // the number of the segment, hashed
};

// The slots that are not -1 as runs, in the order of rows.
std::vector<Run> runs_of(const std::vector<std::int64_t>& slots, std::int64_t block_size) {
  const std::int64_t segments = (block_size - 1) / kMostSlotsOfSegment + 1;  // of a block
  const auto num_rows = static_cast<std::int64_t>(slots.size());
  std::vector<Run> runs;
  for (std::int64_t row = 0; row < num_rows;) {
    if (slots[row] < 0) {
      ++row;
      continue;
    }
    const std::int64_t block = slots[row] / block_size;
    const std::int64_t offset = slots[row] % block_size;
    const std::int64_t segment = offset / kMostSlotsOfSegment;
    const std::int64_t end = std::min(block_size, (segment + 1) * kMostSlotsOfSegment);
    const std::int64_t most = std::min(end - offset, num_rows - row);
    std::int64_t count = 1;
    while (count < most && slots[row + count] == slots[row] + count) ++count;
    // multiplied by the golden ratio, neighbours and blocks at any even distance end up far apart
    const auto number = static_cast<std::uint64_t>(block * segments + segment);
    runs.push_back({{row, block, offset, count},
                    static_cast<std::uint32_t>(number * 0x9e3779b97f4a7c15u >> 32)});
    row += count;
  }
  return runs;
}

std::int64_t block_size_of(const WriteKvArgs& args) {
  return args.k_cache.shape[args.layout == Layout::NHD ? 1 : 2];
}

// Copies of the slots of validated arguments. Another thread might change the caller's after they
// have been checked, so what was copied is checked itself.
std::vector<std::int64_t> checked_slots(const WriteKvArgs& args) {
  const std::int64_t num_slots =
      (args.k_cache.shape[0] + (args.k_open ? args.k_open->shape[0] : 0)) * block_size_of(args);
  std::vector<std::int64_t> slots(static_cast<std::size_t>(args.slot_mapping.shape[0]));
  bool good = true;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    slots[i] = args.slot_mapping.at(static_cast<std::int64_t>(i));
    good = good && slots[i] >= -1 && slots[i] < num_slots;
  }
  if (!good) {
    WriteKvArgs copied = args;
    copied.slot_mapping = contiguous_index_view(slots.data(), {args.slot_mapping.shape[0]});
    validate(copied);  // says which
  }
  return slots;
}

// Of keys or of values, into a cache of plain floats or a quantised one.
using CacheWriter = std::variant<RowWriter, RowQuantiser>;

CacheWriter writer_of(std::string_view function, std::string_view argument, const ArrayView& rows,
                      const std::vector<std::int64_t>& slots, const ArrayView& cache,
                      const std::optional<ArrayView>& scale, Layout layout,
                      const CacheKernels& kernels, int num_threads) {
  if (!scale) return RowWriter(rows, cache, layout, kernels);
  return RowQuantiser(function, argument, rows, slots, cache, *scale, layout, kernels, num_threads);
}

void write(const CacheWriter& writer, const SlotRun& slots, bool streamed) {
  if (const auto* rows = std::get_if<RowWriter>(&writer)) return rows->write(slots, streamed);
  std::get<RowQuantiser>(writer).write(slots);
}

// Rows of k, and of v where there are such, on as many threads as `bytes` of them are worth.
void write_rows(const CacheWriter& k, const std::optional<CacheWriter>& v,
                const std::vector<std::int64_t>& slots, std::int64_t block_size, std::int64_t bytes,
                int num_threads) {
  const std::vector<Run> runs = runs_of(slots, block_size);
  const bool streamed = bytes >= kStreamedBytes;
  const Crew crew = crew_for(bytes, kBytesPerThread, std::ssize(runs), num_threads);
  const std::int64_t num_parts = crew.workers == 1 ? 1 : crew.workers * kPartsPerThread;
  deal(crew, num_parts, [&](std::int64_t part, int) {
    std::int64_t written = 0;  // runs
    for (const Run& run : runs) {
      if (static_cast<std::int64_t>(run.mixed * static_cast<std::uint64_t>(num_parts) >> 32) !=
          part) {
        continue;
      }
      write(k, run.slots, streamed);
      if (v) write(*v, run.slots, streamed);
      if (++written % kRunsPerLook == 0) check_interruption();
    }
    if (streamed) stream_fence();
  });
}

std::int64_t bytes_of(const ArrayView& rows, DType dtype) {
  return rows.shape[0] * rows.shape[1] * rows.shape[2] * static_cast<std::int64_t>(size_of(dtype));
}

std::int64_t first_open_slot(const WriteKvArgs& args) {
  return args.k_cache.shape[0] * block_size_of(args);
}

// Rows of open blocks, if there are any; the others' slots are skipped.
void write_open(const WriteKvArgs& args, std::vector<std::int64_t> slots, int num_threads,
                const CacheKernels& kernels) {
  if (!args.k_open) return;
  const std::int64_t first = first_open_slot(args);
  for (std::int64_t& slot : slots) slot = slot < first ? -1 : slot - first;
  std::optional<CacheWriter> v;
  std::int64_t bytes = bytes_of(args.k, args.k_open->dtype);
  if (args.v && args.v_open) {
    v.emplace(RowWriter(*args.v, *args.v_open, args.layout, kernels));
    bytes += bytes_of(*args.v, args.v_open->dtype);
  }
  write_rows(RowWriter(args.k, *args.k_open, args.layout, kernels), v, slots, block_size_of(args),
             bytes, num_threads);
}

// Whole blocks of the caches, and rows of open ones.
void write_blocks(const WriteKvArgs& args, std::vector<std::int64_t> slots, int num_threads,
                  const CacheKernels& kernels, std::string_view function) {
  const BlockSealer sealer(function, args, slots);
  for (const auto& [name, rows] : {std::pair{"k", &args.k}, std::pair{"v", get_if(args.v)}}) {
    magnitudes_of(function, name, *rows, slots, args.k_cache.dtype, kernels, num_threads);
  }
  sealer.write(kernels, num_threads);
  write_open(args, std::move(slots), num_threads, kernels);
}

// Throws for a row that is infinite in its open block.
void check_open_rows(const WriteKvArgs& args, std::vector<std::int64_t> slots, int num_threads,
                     const CacheKernels& kernels, std::string_view function) {
  if (!args.k_open) return;
  for (std::int64_t& slot : slots) slot = slot < first_open_slot(args) ? -1 : slot;
  magnitudes_of(function, "k", args.k, slots, args.k_open->dtype, kernels, num_threads);
  if (!args.v || !args.v_open) return;
  magnitudes_of(function, "v", *args.v, slots, args.v_open->dtype, kernels, num_threads);
}

}  // namespace

void write_kv(const WriteKvArgs& args, int num_threads) {
  write_kv(args, default_execution(num_threads, "write_kv"));
}

void write_kv(const WriteKvArgs& args, const Execution& how, std::string_view function) {
  const CacheKernels& kernels = *how.kernels->cache;
  const int num_threads = how.num_threads;
  const DefaultFloatMode mode;
  validate(args, function);
  std::vector<std::int64_t> slots = checked_slots(args);
  if (format_of(args.k_cache.dtype).is_sealed_by_block()) {
    return write_blocks(args, std::move(slots), num_threads, kernels, function);
  }
  std::vector<std::int64_t> all_slots;
  if (args.k_open) {
    check_open_rows(args, slots, num_threads, kernels, function);
    all_slots = slots;
    for (std::int64_t& slot : slots) slot = slot < first_open_slot(args) ? slot : -1;
  }
  const CacheWriter k = writer_of(function, "k", args.k, slots, args.k_cache, args.k_scale,
                                  args.layout, kernels, num_threads);
  std::optional<CacheWriter> v;
  std::int64_t bytes = bytes_of(args.k, args.k_cache.dtype);
  if (args.v && args.v_cache) {
    v.emplace(writer_of(function, "v", *args.v, slots, *args.v_cache, args.v_scale, args.layout,
                        kernels, num_threads));
    bytes += bytes_of(*args.v, args.v_cache->dtype);
  }
  write_rows(k, v, slots, block_size_of(args), bytes, num_threads);
  write_open(args, std::move(all_slots), num_threads, kernels);
}

}  // namespace quire
