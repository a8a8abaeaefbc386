#include "quire/cpu/attention/streamed_launch.h"

#include <algorithm>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/cpu/attention/kernel_call.h"
#include "quire/cpu/attention/kernel_launch.h"
#include "quire/cpu/plan/stretches.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

class StreamedLaunch {
 public:
  StreamedLaunch(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                 const WorkPlan& plan, int num_threads)
      : call_(args, kernels), plan_(plan) {
    std::int64_t floats = 0;
    std::int64_t most_rows = 0;
    for (const WorkPart& part : plan.parts) {
      const WorkUnit& unit = plan.units[part.unit];
      const FusedKernels& fused = call_.fused(unit);
      const std::int64_t rows = call_.rows_of(unit);
      most_rows = std::max(most_rows, rows);
      state_begin_.push_back(floats);
      floats +=
          call_.state_floats(fused, rows) + call_.carried_floats(fused, rows, num_keys_of(part));
      has_open_.push_back(call_.has_open(unit, part.keys));
    }
    states_ = states_memory_.reserve(floats);
    const std::int64_t floats_of_worker = call_.most_of_fused(
        [&](const FusedKernels& fused) { return fused.scratch_floats(call_.task(), most_rows); });
    launch_ = std::make_unique<KernelLaunch>(scratch_memory_, floats_of_worker, num_threads);
  }

  // Pieces of different parts.
  void run(std::span<const WorkPiece> pieces) {
    double cost = 0;
    for (const WorkPiece& piece : pieces) cost += cost_of(piece);
    launch_->deal(cost, std::ssize(pieces),
                  [&](std::int64_t i, float* scratch) { run_piece(pieces[i], scratch); });
  }

  // Once all pieces are done.
  void finish() {
    launch_->deal(plan_.cost, std::ssize(plan_.units), [&](std::int64_t i, float*) {
      const WorkUnit& unit = plan_.units[i];
      call_.finish(unit, [&](const FusedKernels& kernels, std::int64_t part, std::int64_t head) {
        const std::int64_t rows = call_.rows_of(unit) / unit.num_heads();
        return call_.rows_from(kernels, state(part), (head - unit.kv_head_begin) * rows);
      });
    });
  }

 private:
  double cost_of(const WorkPiece& piece) const {
    const WorkPart& part = plan_.parts[piece.part];
    const auto all = static_cast<double>(num_keys_of(part));
    return all == 0 ? 0 : part.cost * static_cast<double>(piece.keys.end - piece.keys.begin) / all;
  }

  static std::int64_t num_keys_of(const WorkPart& part) { return part.keys.end - part.keys.begin; }

  // What is carried lies behind it, as pieces of other parts come between its own.
  StateView state(std::int64_t part) const {
    const WorkUnit& unit = plan_.units[plan_.parts[part].unit];
    const FusedKernels& fused = call_.fused(unit);
    const std::int64_t rows = call_.rows_of(unit);
    float* const memory = states_ + state_begin_[part];
    StateView state = call_.state_at(fused, memory, rows);
    if (call_.carries(fused, num_keys_of(plan_.parts[part]))) {
      state.carried = memory + call_.state_floats(fused, rows);
    }
    return state;
  }

  void run_piece(const WorkPiece& piece, float* scratch) {
    const WorkPart& part = plan_.parts[piece.part];
    const WorkUnit& unit = plan_.units[part.unit];
    AttentionPart some{call_.unit(unit, part.windowed), piece.keys.begin, piece.keys.end};
    some.keys_before = piece.keys.begin - part.keys.begin;
    some.goes_on = piece.keys.end < part.keys.end;
    some.is_beside_open = has_open_[piece.part];
    call_.fused(unit).part(call_.task_of(unit.seq), some, nullptr, scratch, state(piece.part));
  }

  const KernelCall call_;
  const WorkPlan& plan_;
  std::vector<std::int64_t> state_begin_;  // of each part
  std::vector<bool> has_open_;             // each part
  AlignedBuffer states_memory_, scratch_memory_;
  float* states_ = nullptr;
  std::unique_ptr<KernelLaunch> launch_;
};

// The keys of pieces, each once for a sequence: units of other heads and query rows read the same.
std::vector<SequenceKeys> keys_of(const WorkPlan& plan, std::span<const WorkPiece> pieces) {
  std::vector<SequenceKeys> all;
  for (const WorkPiece& piece : pieces) {
    if (piece.keys.begin >= piece.keys.end) continue;
    all.push_back({plan.units[plan.parts[piece.part].unit].seq, piece.keys});
  }
  std::sort(all.begin(), all.end(), [](const SequenceKeys& a, const SequenceKeys& b) {
    return std::tie(a.seq, a.keys.begin) < std::tie(b.seq, b.keys.begin);
  });
  std::vector<SequenceKeys> merged;
  for (const SequenceKeys& some : all) {
    if (merged.empty() || merged.back().seq != some.seq ||
        merged.back().keys.end < some.keys.begin) {
      merged.push_back(some);
    } else {
      merged.back().keys.end = std::max(merged.back().keys.end, some.keys.end);
    }
  }
  return merged;
}

}  // namespace

bool launch_streamed(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                     const WorkPlan& plan, int num_threads, std::string_view function) {
  StretchWalk walk(args, plan);
  if (!walk.start()) return false;
  StreamedLaunch launch(args, kernels, plan, num_threads);
  walk.run([&](std::span<const WorkPiece> pieces) {
    check_dynamic_scales(args, keys_of(plan, pieces), function);
    launch.run(pieces);
  });
  launch.finish();
  return true;
}

}  // namespace quire
