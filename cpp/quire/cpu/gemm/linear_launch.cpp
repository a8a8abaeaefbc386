#include "quire/cpu/gemm/linear_launch.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "quire/base/float_mode.h"
#include "quire/base/huge_pages.h"
#include "quire/base/interruption.h"
#include "quire/base/lent.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/gemm/gemm_kernels.h"
#include "quire/ops/linear/pack_weight.h"

namespace quire {
namespace {

// Numbers of 8 bits have to become bfloat16s before tiles can multiply them, which pays from more
// rows on than these; fewer go through vectors, with the same bits.
constexpr std::int64_t kInt8RowsInVectors = 2;

// What pays for a thread, some 20 us: in numbers of a weight, which memory gives at some 8 to 16 in
// a ns whatever they are multiplied by, or in multiplications by so many rows that these take as
// long, at 100 in a ns or more.
constexpr std::int64_t kWorkOfOne = 1 << 18;
constexpr std::int64_t kRowsInTimeOfOne = 12;

// What a thread keeps at most between calls: decoding allocates nothing, and a long prefill does
// not hold memory for good.
constexpr std::int64_t kMostKept = 16 << 20;  // bytes

class Room {
 public:
  // Room for `count` bytes. What it held before is lost.
  std::byte* reserve(std::int64_t count) {
    if (count > capacity_) {
      let_go_above(0);
      data_ = large_bytes(count);
      capacity_ = count;
    }
    return data_.get();
  }
  void let_go_above(std::int64_t count) {
    if (capacity_ <= count) return;
    data_.reset();
    capacity_ = 0;
  }

 private:
  PagedBytes data_;
  std::int64_t capacity_ = 0;
};

struct Rooms {
  Room packed, of_workers, bias;
};

// Of the thread that calls, given back where they have grown large.
class LentRooms {
 public:
  LentRooms() = default;
  ~LentRooms() {
    for (Room* const room : {&rooms_->packed, &rooms_->of_workers, &rooms_->bias})
      room->let_go_above(kMostKept);
  }
  LentRooms(const LentRooms&) = delete;
  LentRooms& operator=(const LentRooms&) = delete;

  Rooms* operator->() const { return &*rooms_; }

 private:
  const Lent<Rooms> rooms_;
};

// The mode that the numbers of a task are computed in.
class InModeOf {
 public:
  explicit InModeOf(const GemmTask& task) {
    if (has_sums_of_tiles(task.x_dtype, task.format)) flushing_.emplace();
  }

 private:
  std::optional<FlushingFloatMode> flushing_;
};

GemmTask task_of(const LinearArgs& args, const PackedLayout& layout) {
  GemmTask task{};
  task.x_stride = args.x.strides[0];
  task.x_dtype = args.x.dtype;
  task.out_dtype = args.out.dtype;
  task.row_length = layout.num_columns;
  task.format = layout.format;
  task.depth = layout.depth();
  task.has_groups = layout.group_size != 0;
  task.group_depth = layout.group_depth();
  task.group_bytes = layout.group_bytes();
  task.panel_bytes = layout.panel_bytes();
  task.num_columns = layout.num_rows;
  task.scales = args.weight_array ? nullptr : args.weight->scales();
  task.out_stride = args.out.strides[0];
  return task;
}

// The bias as floats, of all columns of the panels.
const float* floats_of(const ArrayView& bias, std::int64_t num_columns, Room& room) {
  const std::int64_t padded = round_up(num_columns, kPanelColumns);
  auto* const floats = reinterpret_cast<float*>(room.reserve(padded * std::int64_t{sizeof(float)}));
  visit_dtype(bias.dtype, [&](auto type) {
    const auto* const from = reinterpret_cast<const decltype(type)*>(bias.data);
    for (std::int64_t n = 0; n < num_columns; ++n) floats[n] = to_float(from[n]);
  });
  std::fill(floats + num_columns, floats + padded, 0.0f);
  return floats;
}

const GemmPath& path_of(const GemmKernels& kernels, const GemmTask& task) {
  const bool in_tiles = kernels.tiles != nullptr && has_sums_of_tiles(task.x_dtype, task.format);
  const bool pays = task.format != DType::int8 || task.num_rows > kInt8RowsInVectors;
  return in_tiles && pays ? *kernels.tiles : kernels.lanes;
}

// The rows of one task. Panels of a weight that is not packed are packed by whoever multiplies
// them.
void multiply_rows(const LinearArgs& args, const PackedLayout& layout, const GemmTask& task,
                   const GemmPath& path, int num_threads, const LentRooms& rooms) {
  const std::int64_t times = std::max<std::int64_t>(1, task.num_rows / kRowsInTimeOfOne);
  const std::int64_t work = times * task.row_length * task.num_columns;
  const std::int64_t num_tiles = (task.num_rows + kTileRows - 1) / kTileRows;
  std::byte* const packed = rooms->packed.reserve(path.packed_bytes(task));
  // of a number a hundredth of what all of its products take, or so
  deal(crew_for(task.num_rows * task.row_length, kWorkOfOne, num_tiles, num_threads), num_tiles,
       [&](std::int64_t tile, int) {
         const InModeOf mode(task);
         path.pack_rows(task, tile, packed);
       });

  const std::int64_t panels = layout.panels();
  const Crew crew = crew_for(work, kWorkOfOne, panels, num_threads);
  // Several times as many items as workers, so that none waits long for the last.
  const std::int64_t fair = std::max<std::int64_t>(1, panels / (4 * crew.workers));
  const std::int64_t at_once = std::min(path.panels_at_once(task), fair);
  const std::int64_t item = std::min<std::int64_t>(fair, 16) / at_once * at_once;
  const ArrayView* const array = args.weight_array ? &*args.weight_array : nullptr;
  const std::int64_t scratch = round_up(path.scratch_bytes(task, at_once), kCacheLine);
  const std::int64_t room =
      round_up(scratch + (array != nullptr ? at_once * layout.panel_bytes() : 0), kCacheLine);
  std::byte* const of_workers = rooms->of_workers.reserve(room * crew.workers);
  deal(crew, (panels + item - 1) / item, [&](std::int64_t index, int worker) {
    std::byte* const mine = of_workers + worker * room;
    const std::int64_t begin = index * item, end = std::min(panels, begin + item);
    for (std::int64_t first = begin; first < end; first += at_once) {
      // many rows of a panel take milliseconds; whoever is asked computes in a mode of their own
      if (first > begin) check_interruption();
      const InModeOf mode(task);
      PanelRange range{first, std::min(at_once, end - first), nullptr};
      if (array != nullptr) {
        for (std::int64_t i = 0; i < range.count; ++i) {
          pack_panel(*array, layout, first + i, mine + scratch + i * task.panel_bytes);
        }
        range.data = mine + scratch;
      } else {
        range.data = args.weight->panel(first);
      }
      path.multiply(task, packed, range, mine);
    }
  });
}

}  // namespace

void linear(const LinearArgs& args, const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  check_linear(args, function);
  const PackedLayout layout = args.layout();
  GemmTask task = task_of(args, layout);
  const LentRooms rooms;
  if (args.bias) task.bias = floats_of(*args.bias, layout.num_rows, rooms->bias);
  for (std::int64_t row = 0; row < args.num_rows(); row += kTaskRows) {
    task.num_rows = std::min(kTaskRows, args.num_rows() - row);
    task.x = args.x.at(row);
    task.out = args.out.at(row);
    multiply_rows(args, layout, task, path_of(*how.kernels->gemm, task), how.num_threads, rooms);
  }
}

}  // namespace quire
