#include "quire/cpu/attention_launch.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "quire/attention/cache_scales.h"
#include "quire/attention/split.h"
#include "quire/base/aligned_buffer.h"
#include "quire/base/float_mode.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/kernel_call.h"
#include "quire/cpu/streamed_launch.h"

namespace quire {
namespace {

// Floats of working memory that a thread keeps between calls (64 MiB).
constexpr std::int64_t kKeptFloats = 16 * 1024 * 1024;

static_assert(kMostKeyParts <= kMostParts);

// What a calling thread keeps between calls, so that a small one allocates nothing.
struct Workspace {
  WorkPlan plan;
  std::vector<std::int64_t> order;        // of parts, the most costly first
  std::vector<std::int64_t> state_begin;  // of each unit, in `states`
  std::vector<std::int32_t> parts_left;   // of each unit
  AlignedBuffer states;                   // of units of several parts
  AlignedBuffer scratch;                  // of each worker
};

class FusedLaunch {
 public:
  FusedLaunch(const PagedAttentionArgs& args, const Kernels& kernels, Workspace& work)
      : launch_(args, kernels), kernels_(kernels), work_(work) {
    const std::size_t num_units = work.plan.units.size();
    work.state_begin.resize(num_units);
    work.parts_left.resize(num_units);
    std::int64_t states = 0;
    std::int64_t most_rows = 0;
    for (std::size_t i = 0; i < num_units; ++i) {
      const WorkUnit& unit = work.plan.units[i];
      const std::int64_t rows = launch_.rows_of(unit);
      most_rows = std::max(most_rows, rows);
      work.parts_left[i] = static_cast<std::int32_t>(unit.num_parts);
      work.state_begin[i] = states;
      if (unit.num_parts > 1) states += unit.num_parts * launch_.state_floats(rows);
    }
    states_ = work.states.reserve(states);
    worker_floats_ = round_to_line(kernels.fused_scratch(launch_.task(), most_rows)) +
                     launch_.state_floats(most_rows);
  }

  void run(int num_workers) {
    scratch_ = work_.scratch.reserve(worker_floats_, num_workers);
    if (num_workers == 1) {
      const DefaultFloatMode mode;
      const std::int64_t num_parts = static_cast<std::int64_t>(work_.plan.parts.size());
      for (std::int64_t i = 0; i < num_parts; ++i)
        run_part(i, i + 1 < num_parts ? i + 1 : kNone, 0);
      return;
    }
    std::vector<std::int64_t>& order = work_.order;
    order.resize(work_.plan.parts.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      const double a_cost = work_.plan.parts[a].cost;
      const double b_cost = work_.plan.parts[b].cost;
      return a_cost != b_cost ? a_cost > b_cost : a < b;
    });
    const std::int64_t num_parts = static_cast<std::int64_t>(order.size());
    std::atomic<std::int64_t> next{0};
    run_on_threads(num_workers, [&](int worker) {
      std::int64_t i = next++;
      while (i < num_parts) {
        // Taken before this one is done, so that its memory can be asked for; but the last ones are
        // left to whoever is first.
        const bool ahead = i + num_workers + 1 < num_parts;
        const std::int64_t upcoming = ahead ? next++ : num_parts;
        run_part(order[i], upcoming < num_parts ? order[upcoming] : kNone, worker);
        i = ahead ? upcoming : next++;
      }
    });
  }

 private:
  static constexpr std::int64_t kNone = -1;

  AttentionPart part_at(std::int64_t index) const {
    const WorkPart& part = work_.plan.parts[index];
    return {launch_.unit(work_.plan.units[part.unit], part.windowed), part.keys.begin,
            part.keys.end};
  }

  // Whoever computes a unit's last part merges them all, in the order of keys. `upcoming`: what
  // this worker does next, or kNone.
  void run_part(std::int64_t index, std::int64_t upcoming, int worker) {
    const std::int64_t unit_index = work_.plan.parts[index].unit;
    const WorkUnit& work_unit = work_.plan.units[unit_index];
    const AttentionPart part = part_at(index);
    const AttentionUnit& unit = part.unit;
    AttentionPart next_part;
    const AttentionPart* next = nullptr;
    if (upcoming != kNone) next = &(next_part = part_at(upcoming));
    const std::int64_t rows = launch_.rows_of(work_unit);
    float* const state = scratch_ + worker * worker_floats_;
    float* const scratch = state + launch_.state_floats(rows);
    if (work_unit.num_parts == 1) {
      const StateView view = launch_.state_at(state, rows);
      kernels_.fused_part(launch_.task(), part, next, scratch, view);
      kernels_.finish(launch_.task(), unit, &view, 1);
      return;
    }
    StateView views[kMostKeyParts];
    for (std::int64_t p = 0; p < work_unit.num_parts; ++p) {
      views[p] = launch_.state_at(
          states_ + work_.state_begin[unit_index] + p * launch_.state_floats(rows), rows);
    }
    const std::int64_t place = index - work_unit.first_part;
    kernels_.fused_part(launch_.task(), part, next, scratch, views[place]);
    const std::atomic_ref parts_left(work_.parts_left[unit_index]);
    if (parts_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      kernels_.finish(launch_.task(), unit, views, work_unit.num_parts);
    }
  }

  const KernelCall launch_;
  const Kernels& kernels_;
  Workspace& work_;
  float* states_ = nullptr;
  float* scratch_ = nullptr;
  std::int64_t worker_floats_ = 0;
};

Workspace& workspace() {
  thread_local Workspace work;
  return work;
}

}  // namespace

void launch_fused(const PagedAttentionArgs& args, const Kernels& kernels, int num_threads,
                  std::string_view function) {
  Workspace& work = workspace();
  plan_work(args, work.plan);
  if (args.pager != nullptr) {
    if (launch_streamed(args, kernels, work.plan, num_threads, function)) return;
    check_dynamic_scales(args, function);  // all in memory
  }
  FusedLaunch launch(args, kernels, work);
  launch.run(
      worker_count(work.plan.cost, static_cast<std::int64_t>(work.plan.parts.size()), num_threads));
  work.states.keep_at_most(kKeptFloats);
  work.scratch.keep_at_most(kKeptFloats);
}

void launch_gather(const PagedAttentionArgs& args, const Kernels& kernels, int num_threads) {
  // A sequence and one of its KV heads at a time, all of its query tokens and keys together.
  const KernelCall launch(args, kernels);
  const PagedAttentionSizes sizes = sizes_of(args);
  std::int64_t most_keys = 0;
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) {
    most_keys = std::max(most_keys, args.seq_lens.at(seq));
  }
  const std::int64_t worker_floats =
      round_to_line(kernels.gather_scratch(launch.task(), most_keys));
  const std::int64_t items = sizes.num_seqs * sizes.num_kv_heads;
  const double cost = static_cast<double>(items) * static_cast<double>(most_keys) *
                      static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  const int num_workers = worker_count(cost, items, num_threads);
  AlignedBuffer memory;
  float* const scratch = memory.reserve(worker_floats, num_workers);
  std::atomic<std::int64_t> next{0};
  run_on_threads(num_workers, [&](int worker) {
    for (std::int64_t i = next++; i < items; i = next++) {
      WorkUnit work{};
      work.seq = i / sizes.num_kv_heads;
      work.kv_head_begin = i % sizes.num_kv_heads;
      work.kv_head_end = work.kv_head_begin + 1;
      const QueryRows rows = query_rows(args, work.seq);
      if (rows.begin == rows.end) continue;
      work.token_begin = rows.begin;
      work.token_end = rows.end;
      const VisibleKeys keys = visible_keys(args, rows, 0, rows.end - rows.begin);
      kernels.gather(launch.task(), launch.unit(work, keys.windowed), keys.sink_tokens.end,
                     keys.window.begin, keys.window.end, scratch + worker * worker_floats);
    }
  });
}

}  // namespace quire
