#include "quire/cpu/attention/attention_launch.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/check.h"
#include "quire/base/lent.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/attention/kernel_call.h"
#include "quire/cpu/attention/kernel_launch.h"
#include "quire/cpu/attention/streamed_launch.h"
#include "quire/cpu/plan/attention_plan.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// Floats of working memory that a thread keeps between calls (64 MiB).
constexpr std::int64_t kKeptFloats = 16 * 1024 * 1024;

static_assert(kMostKeyParts <= kMostParts && kMostGridParts <= kMostParts);

// What a calling thread keeps between calls, so that a small one allocates nothing.
struct Workspace {
  AttentionPlan plan;                    // of a call that brings none
  std::vector<std::int32_t> items_left;  // of each unit: those that its results wait for
  AlignedBuffer states;                  // of units of several parts
  AlignedBuffer scratch;                 // of each worker
};

// Where a cache has dynamic scales, and all units several parts: scales are looked at as their part
// comes to its turn, and results wait until all have passed. Else they are looked at beforehand.
bool looks_at_scales_by_part(const PagedAttentionArgs& args, const WorkPlan& plan) {
  return has_dynamic_scales(args) &&
         std::all_of(plan.units.begin(), plan.units.end(),
                     [](const WorkUnit& unit) { return unit.num_parts > 1; });
}

class FusedLaunch {
 public:
  FusedLaunch(const PagedAttentionArgs& args, const AttentionChoice& kernels, AttentionPlan& plan,
              Workspace& workspace)
      : args_(args),
        call_(args, kernels),
        whole_plan_(plan),
        plan_(plan.cut),
        work_(plan.work),
        workspace_(workspace),
        by_part_(looks_at_scales_by_part(args, plan.cut)) {
    workspace.items_left = work_.items_left;
    states_ = workspace.states.reserve(work_.state_floats);
    carried_at_ = round_to_line(call_.most_of_fused([&](const FusedKernels& fused) {
      return fused.scratch_floats(call_.task(), work_.most_rows);
    }));
    state_at_ = carried_at_ + call_.most_of_fused([&](const FusedKernels& fused) {
      return call_.carried_floats(fused, work_.most_rows, plan_.most_part_keys);
    });
    worker_floats_ = state_at_ + call_.most_of_fused([&](const FusedKernels& fused) {
      return call_.state_floats(fused, work_.most_rows);
    });
  }

  FusedLaunch(const FusedLaunch&) = delete;
  FusedLaunch& operator=(const FusedLaunch&) = delete;
  ~FusedLaunch() {
    workspace_.states.keep_at_most(kKeptFloats);
    workspace_.scratch.keep_at_most(kKeptFloats);
  }

  // Throws as check_dynamic_scales does, under the name of `function`.
  void run(int num_threads, std::string_view function) {
    if (!by_part_) check_dynamic_scales(args_, function);
    const KernelLaunch launch(workspace_.scratch, worker_floats_, num_threads);
    launch.deal_ahead(
        work_.cost, std::ssize(work_.items), [&] { return whole_plan_.costly_first().data(); },
        [&](std::int64_t item, std::int64_t upcoming, float* scratch) {
          run_item(item, upcoming, scratch);
        });
    if (!by_part_) return;
    if (found_bad_scale_) {
      check_dynamic_scales(args_, function);
      raise<ValueError>(place(function, "k_scale"), "got one that was not positive and finite, ",
                        "expected nobody to write scales meanwhile");
    }
    launch.deal(work_.cost, std::ssize(plan_.units),
                [&](std::int64_t i, float*) { finish(plan_.units[i]); });
  }

 private:
  const WorkUnit& unit_of(std::int64_t part) const { return plan_.units[plan_.parts[part].unit]; }

  AttentionPart part_of(const WorkItem& item) const {
    const WorkPart& part = plan_.parts[work_.members[item.first_member]];
    AttentionPart result{call_.unit(plan_.units[part.unit], part.windowed), part.keys.begin,
                         part.keys.end};
    AttentionUnit& unit = result.unit;
    unit.kv_head_begin = item.kv_head_begin;
    unit.kv_head_end = item.kv_head_end;
    unit.head_rows = item.head_rows;
    if (item.num_members > 1) {
      unit.num_tokens *= item.num_members;
      unit.tokens = work_.tokens.data() + item.first_token;
    }
    return result;
  }

  StateView state_of(const FusedKernels& kernels, const WorkItem& item) const {
    return call_.state_at(kernels, states_ + item.state_begin,
                          (item.kv_head_end - item.kv_head_begin) * item.head_rows);
  }

  // The rows of a KV head of a part's unit.
  StateView state_rows(const FusedKernels& kernels, std::int64_t part, std::int64_t head) const {
    const PartPlace& place = work_.places[part];
    const std::int64_t heads_before = head - unit_of(part).kv_head_begin;
    const WorkItem& item = work_.items[place.first_item + heads_before / place.item_heads];
    return call_.rows_from(kernels, state_of(kernels, item),
                           (head - item.kv_head_begin) * item.head_rows + place.row);
  }

  bool scales_are_sound(const WorkItem& item) const {
    const std::int64_t part = work_.members[item.first_member];
    return dynamic_scales_are_sound(args_, {unit_of(part).seq, plan_.parts[part].keys},
                                    item.kv_head_begin, item.kv_head_end);
  }

  // `upcoming`: what this worker does next, or kNoItem.
  //
  // Scales are looked at right before their keys are, which brings them near, unless the kernel
  // does so as it multiplies.
  void run_item(std::int64_t index, std::int64_t upcoming, float* scratch) {
    const WorkItem& item = work_.items[index];
    AttentionPart part = part_of(item);
    AttentionPart next_part;
    const AttentionPart* next = nullptr;
    if (upcoming != kNoItem) next = &(next_part = part_of(work_.items[upcoming]));
    const WorkUnit& unit_of_first = unit_of(work_.members[item.first_member]);
    const FusedKernels& kernels = call_.fused(unit_of_first);
    const AttentionTask& task = call_.task_of(unit_of_first.seq);  // others have the same scales
    if (by_part_ && kernels.looks_at_scales(task, part)) {
      part.has_bad_scale = &found_bad_scale_;
    } else if (by_part_ && !scales_are_sound(item)) {
      std::atomic_ref(found_bad_scale_).store(true, std::memory_order_relaxed);
    }
    const bool is_alone = item.state_begin == WorkItem::kNoState;
    StateView state = is_alone ? call_.state_at(kernels, scratch + state_at_, work_.most_rows)
                               : state_of(kernels, item);
    if (call_.carries(kernels, part.key_end - part.key_begin)) {
      state.carried = scratch + carried_at_;
    }
    kernels.part(task, part, next, scratch, state);
    confirm_uninterrupted();
    if (is_alone) return kernels.finish(task, part.unit, &state, 1);
    if (by_part_) return;
    for (std::int64_t member = 0; member < item.num_members; ++member) {
      const std::int64_t unit = plan_.parts[work_.members[item.first_member + member]].unit;
      const std::atomic_ref items_left(workspace_.items_left[unit]);
      if (items_left.fetch_sub(1, std::memory_order_acq_rel) == 1) finish(plan_.units[unit]);
    }
  }

  // Whoever computes the last of a unit's parts merges them all.
  void finish(const WorkUnit& unit) const {
    call_.finish(unit, [&](const FusedKernels& kernels, std::int64_t part, std::int64_t head) {
      return state_rows(kernels, part, head);
    });
  }

  const PagedAttentionArgs& args_;
  const KernelCall call_;
  AttentionPlan& whole_plan_;
  const WorkPlan& plan_;
  const WorkItems& work_;
  Workspace& workspace_;
  const bool by_part_;
  bool found_bad_scale_ = false;  // by several threads, until they are done
  float* states_ = nullptr;
  // A worker's memory begins with the kernel's; in floats.
  std::int64_t carried_at_ = 0;  // of a long part
  std::int64_t state_at_ = 0;    // of a unit's only part
  std::int64_t worker_floats_ = 0;
};

}  // namespace

void launch_fused(const PagedAttentionArgs& args, const AttentionChoice& kernels, int num_threads,
                  std::string_view function, AttentionPlan* given) {
  const Lent<Workspace> lent;
  Workspace& work = *lent;
  AttentionPlan& plan = given != nullptr ? *given : work.plan;
  if (given == nullptr) plan_attention(args, kernels, plan);
  if (args.pager != nullptr && launch_streamed(args, kernels, plan.cut, num_threads, function)) {
    return;
  }
  FusedLaunch(args, kernels, plan, work).run(num_threads, function);
}

void launch_gather(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                   int num_threads) {
  // A sequence and one of its KV heads at a time, all of its query tokens and keys together.
  const KernelCall call(args, kernels);
  const PagedAttentionSizes sizes = sizes_of(args);
  std::int64_t most_keys = 0;
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) {
    most_keys = std::max(most_keys, args.seq_lens.at(seq));
  }
  const std::int64_t items = sizes.num_seqs * sizes.num_kv_heads;
  const double cost = static_cast<double>(items) * static_cast<double>(most_keys) *
                      static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  AlignedBuffer memory;
  const KernelLaunch launch(memory, kernels.gather->scratch_floats(call.task(), most_keys),
                            num_threads);
  launch.deal(cost, items, [&](std::int64_t i, float* scratch) {
    WorkUnit work{};
    work.seq = i / sizes.num_kv_heads;
    work.kv_head_begin = i % sizes.num_kv_heads;
    work.kv_head_end = work.kv_head_begin + 1;
    const QueryRows rows = query_rows(args, work.seq);
    if (rows.begin == rows.end) return;
    work.token_begin = rows.begin;
    work.token_end = rows.end;
    const VisibleKeys keys = visible_keys(args, rows, 0, rows.end - rows.begin);
    AttentionUnit unit = call.unit(work, keys.windowed);
    unit.sink_tokens = keys.sink_tokens.end;
    kernels.gather->run(call.task_of(work.seq), unit, keys.window.begin, keys.window.end, scratch);
  });
}

}  // namespace quire
