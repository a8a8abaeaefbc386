#include "quire/cpu/attention/streamed_launch.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <tuple>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/attention/kernel_call.h"
#include "quire/cpu/plan/stretches.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

class StreamedLaunch {
 public:
  StreamedLaunch(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                 const WorkPlan& plan, int num_threads)
      : call_(args, kernels),
        plan_(plan),
        num_threads_(static_cast<int>(std::clamp<std::int64_t>(
            static_cast<std::int64_t>(plan.parts.size()), 1, num_threads))) {
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
    scratch_floats_ = round_to_line(call_.most_of_fused(
        [&](const FusedKernels& fused) { return fused.scratch_floats(call_.task(), most_rows); }));
    scratch_ = scratch_memory_.reserve(scratch_floats_, num_threads_);
  }

  // Pieces of different parts.
  void run(std::span<const WorkPiece> pieces) {
    double cost = 0;
    for (const WorkPiece& piece : pieces) cost += cost_of(piece);
    const auto count = static_cast<std::int64_t>(pieces.size());
    deal(attention_crew(cost, count, num_threads_), count,
         [&](std::int64_t i, int worker) { run_piece(pieces[i], worker); });
  }

  // Once all pieces are done.
  void finish() {
    const auto count = static_cast<std::int64_t>(plan_.units.size());
    deal(attention_crew(plan_.cost, count, num_threads_), count, [&](std::int64_t i, int) {
      const WorkUnit& unit = plan_.units[i];
      StateView views[kMostKeyParts];
      for (std::int64_t p = 0; p < unit.num_parts; ++p) views[p] = state(unit.first_part + p);
      call_.fused(unit).finish(call_.task(), call_.unit(unit, unit.keys.windowed), views,
                               unit.num_parts);
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
    if (num_keys_of(plan_.parts[part]) > kSumKeys) {
      state.carried = memory + call_.state_floats(fused, rows);
    }
    return state;
  }

  void run_piece(const WorkPiece& piece, int worker) {
    const WorkPart& part = plan_.parts[piece.part];
    const WorkUnit& unit = plan_.units[part.unit];
    AttentionPart some{call_.unit(unit, part.windowed), piece.keys.begin, piece.keys.end};
    some.keys_before = piece.keys.begin - part.keys.begin;
    some.goes_on = piece.keys.end < part.keys.end;
    some.is_beside_open = has_open_[piece.part];
    call_.fused(unit).part(call_.task(), some, nullptr, scratch_ + worker * scratch_floats_,
                           state(piece.part));
  }

  const KernelCall call_;
  const WorkPlan& plan_;
  const int num_threads_;
  std::vector<std::int64_t> state_begin_;  // of each part
  std::vector<bool> has_open_;             // each part
  AlignedBuffer states_memory_, scratch_memory_;
  float* states_ = nullptr;
  float* scratch_ = nullptr;
  std::int64_t scratch_floats_ = 0;
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
  const StretchPlan stretches = plan_stretches(args, plan, args.pager->most_blocks());
  if (!args.pager->start(stretches.blocks)) return false;
  StreamedLaunch launch(args, kernels, plan, num_threads);
  std::size_t begin = 0;
  for (std::size_t i = 0; i < stretches.end.size(); ++i) {
    const auto end = static_cast<std::size_t>(stretches.end[i]);
    const auto pieces = std::span(stretches.pieces).subspan(begin, end - begin);
    args.pager->wait_for(i);
    check_dynamic_scales(args, keys_of(plan, pieces), function);
    launch.run(pieces);
    args.pager->done_with(i);
    begin = end;
  }
  launch.finish();
  return true;
}

}  // namespace quire
