#include "quire/cpu/attention/attention_launch.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/check.h"
#include "quire/base/float_mode.h"
#include "quire/base/lent.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/attention/kernel_call.h"
#include "quire/cpu/attention/streamed_launch.h"
#include "quire/cpu/plan/attention_plan.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// Floats of working memory that a thread keeps between calls (64 MiB).
constexpr std::int64_t kKeptFloats = 16 * 1024 * 1024;

static_assert(kMostKeyParts <= kMostParts);

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
    std::int64_t most_keys = 0;  // of a part
    for (const WorkPart& part : plan_.parts) {
      most_keys = std::max(most_keys, part.keys.end - part.keys.begin);
    }
    carried_at_ = round_to_line(call_.most_of_fused([&](const FusedKernels& kernels) {
      return kernels.scratch_floats(call_.task(), work_.most_rows);
    }));
    state_at_ = carried_at_ + call_.most_of_fused([&](const FusedKernels& kernels) {
      return call_.carried_floats(kernels, work_.most_rows, most_keys);
    });
    worker_floats_ = state_at_ + call_.most_of_fused([&](const FusedKernels& kernels) {
      return call_.state_floats(kernels, work_.most_rows);
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
    const auto num_items = static_cast<std::int64_t>(work_.items.size());
    const Crew crew = attention_crew(work_.cost, num_items, num_threads);
    scratch_ = workspace_.scratch.reserve(worker_floats_, crew.workers);
    run_items(crew);
    if (!by_part_) return;
    if (found_bad_scale_) {
      check_dynamic_scales(args_, function);
      raise<ValueError>(place(function, "k_scale"), "got one that was not positive and finite, ",
                        "expected nobody to write scales meanwhile");
    }
    deal(crew, std::ssize(plan_.units), [&](std::int64_t i, int) { finish(plan_.units[i]); });
  }

 private:
  static constexpr std::int64_t kNone = -1;

  void run_items(const Crew& crew) {
    const auto num_items = static_cast<std::int64_t>(work_.items.size());
    if (crew.workers == 1) {
      const DefaultFloatMode mode;
      for (std::int64_t i = 0; i < num_items; ++i)
        run_item(i, i + 1 < num_items ? i + 1 : kNone, 0);
      return;
    }
    const std::vector<std::int64_t>& order = whole_plan_.costly_first();
    std::atomic<std::int64_t> next{0};
    run_on_threads(crew, [&](int worker) {
      std::int64_t i = next++;
      while (i < num_items) {
        // Taken before this one is done, so that its memory can be asked for; but the last ones are
        // left to whoever is first.
        const bool ahead = i + crew.workers + 1 < num_items;
        const std::int64_t upcoming = ahead ? next++ : num_items;
        run_item(order[i], upcoming < num_items ? order[upcoming] : kNone, worker);
        i = ahead ? upcoming : next++;
      }
    });
  }

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

  // `upcoming`: what this worker does next, or kNone.
  //
  // Scales are looked at right before their keys are, which brings them near, unless the kernel
  // does so as it multiplies.
  void run_item(std::int64_t index, std::int64_t upcoming, int worker) {
    check_interruption();
    const WorkItem& item = work_.items[index];
    AttentionPart part = part_of(item);
    AttentionPart next_part;
    const AttentionPart* next = nullptr;
    if (upcoming != kNone) next = &(next_part = part_of(work_.items[upcoming]));
    const FusedKernels& kernels = call_.fused(unit_of(work_.members[item.first_member]));
    float* const scratch = scratch_ + worker * worker_floats_;
    if (by_part_ && kernels.looks_at_scales(call_.task(), part)) {
      part.has_bad_scale = &found_bad_scale_;
    } else if (by_part_ && !scales_are_sound(item)) {
      std::atomic_ref(found_bad_scale_).store(true, std::memory_order_relaxed);
    }
    const bool is_alone = item.state_begin == WorkItem::kNoState;
    StateView state = is_alone ? call_.state_at(kernels, scratch + state_at_, work_.most_rows)
                               : state_of(kernels, item);
    if (part.key_end - part.key_begin > kSumKeys) state.carried = scratch + carried_at_;
    kernels.part(call_.task(), part, next, scratch, state);
    confirm_uninterrupted();
    if (is_alone) return kernels.finish(call_.task(), part.unit, &state, 1);
    if (by_part_) return;
    for (std::int64_t member = 0; member < item.num_members; ++member) {
      const std::int64_t unit = plan_.parts[work_.members[item.first_member + member]].unit;
      const std::atomic_ref items_left(workspace_.items_left[unit]);
      if (items_left.fetch_sub(1, std::memory_order_acq_rel) == 1) finish(plan_.units[unit]);
    }
  }

  // Whoever computes the last of a unit's parts merges them all, in the order of keys.
  void finish(const WorkUnit& work_unit) const {
    const FusedKernels& kernels = call_.fused(work_unit);
    AttentionUnit unit = call_.unit(work_unit, work_unit.keys.windowed);
    for (std::int64_t head = work_unit.kv_head_begin; head < work_unit.kv_head_end; ++head) {
      StateView views[kMostKeyParts];
      for (std::int64_t p = 0; p < work_unit.num_parts; ++p) {
        views[p] = state_rows(kernels, work_unit.first_part + p, head);
      }
      unit.kv_head_begin = head;
      unit.kv_head_end = head + 1;
      kernels.finish(call_.task(), unit, views, work_unit.num_parts);
    }
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
  float* scratch_ = nullptr;
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
  const KernelCall launch(args, kernels);
  const PagedAttentionSizes sizes = sizes_of(args);
  std::int64_t most_keys = 0;
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) {
    most_keys = std::max(most_keys, args.seq_lens.at(seq));
  }
  const std::int64_t worker_floats =
      round_to_line(kernels.gather->scratch_floats(launch.task(), most_keys));
  const std::int64_t items = sizes.num_seqs * sizes.num_kv_heads;
  const double cost = static_cast<double>(items) * static_cast<double>(most_keys) *
                      static_cast<double>(sizes.head_dim + sizes.v_head_dim);
  const Crew crew = attention_crew(cost, items, num_threads);
  AlignedBuffer memory;
  float* const scratch = memory.reserve(worker_floats, crew.workers);
  deal(crew, items, [&](std::int64_t i, int worker) {
    WorkUnit work{};
    work.seq = i / sizes.num_kv_heads;
    work.kv_head_begin = i % sizes.num_kv_heads;
    work.kv_head_end = work.kv_head_begin + 1;
    const QueryRows rows = query_rows(args, work.seq);
    if (rows.begin == rows.end) return;
    work.token_begin = rows.begin;
    work.token_end = rows.end;
    const VisibleKeys keys = visible_keys(args, rows, 0, rows.end - rows.begin);
    kernels.gather->run(launch.task(), launch.unit(work, keys.windowed), keys.sink_tokens.end,
                        keys.window.begin, keys.window.end, scratch + worker * worker_floats);
  });
}

}  // namespace quire
