#include "quire/cpu/attention/block_mass_launch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/cpu/attention/kernel_call.h"
#include "quire/cpu/attention/kernel_launch.h"
#include "quire/cpu/plan/stretches.h"
#include "quire/ops/attention/visible_keys.h"

namespace quire {
namespace {

// Query rows that one thread takes with the same keys, and keys that it takes at a time.
constexpr std::int64_t kRows = 64;
constexpr std::int64_t kKeys = 4096;

constexpr float kNoKey = -std::numeric_limits<float>::infinity();

// Some query tokens of a sequence with one KV head. Its items are columns of the block table, each
// all of one item's, so that no two threads write the same one.
struct MassUnit {
  WorkUnit work;
  VisibleKeys keys;
  std::size_t first_item, num_items;
};

struct MassItem {
  std::size_t unit;
  KeyRange columns;
  std::size_t first_maximum;  // of the unit's rows
};

class MassLaunch {
 public:
  MassLaunch(const PagedAttentionArgs& args, const AttentionChoice& kernels)
      : args_(args), sizes_(sizes_of(args)), call_(args, kernels), kernels_(*kernels.block_mass) {
    for (std::int64_t seq = 0; seq < sizes_.num_seqs; ++seq) add_sequence(seq);
    maxima_.assign(num_maxima_, kNoKey);
  }

  void run(int num_threads) {
    AlignedBuffer memory;
    const KernelLaunch launch(
        memory, kernels_.scratch_floats(call_.task(), std::max(kRows, sizes_.group)), num_threads);
    if (args_.pager == nullptr || !run_in_stretches(launch)) {
      launch.deal(cost_, std::ssize(items_), [&](std::int64_t i, float* scratch) {
        const auto item = static_cast<std::size_t>(i);
        for_ranges(items_[item], [&](const KeyRange& keys, bool windowed) {
          add_weights(item, keys, windowed, false, scratch);
        });
      });
    }
    launch.deal(cost_, std::ssize(units_), [&](std::int64_t i, float*) { divide(units_[i]); });
  }

 private:
  std::int64_t rows_of(const WorkUnit& work) const {
    return (work.token_end - work.token_begin) * sizes_.group;
  }

  void add_sequence(std::int64_t seq) {
    const QueryRows rows = query_rows(args_, seq);
    const std::int64_t tokens = rows.end - rows.begin;
    const std::int64_t step = std::max<std::int64_t>(1, kRows / sizes_.group);
    for (std::int64_t token = 0; token < tokens; token += step) {
      const std::int64_t end = std::min(token + step, tokens);
      WorkUnit work{};
      work.seq = seq;
      work.token_begin = rows.begin + token;
      work.token_end = rows.begin + end;
      const VisibleKeys keys = visible_keys(args_, rows, token, end);
      for (std::int64_t head = 0; head < sizes_.num_kv_heads; ++head) {
        work.kv_head_begin = head;
        work.kv_head_end = head + 1;
        add_unit(work, keys);
      }
    }
  }

  void add_unit(const WorkUnit& work, const VisibleKeys& keys) {
    const std::size_t first_item = items_.size();
    const std::int64_t block_size = sizes_.block_size;
    const std::int64_t step = std::max<std::int64_t>(1, kKeys / block_size);
    for (std::int64_t key = keys.sink_tokens.end > 0 ? 0 : keys.window.begin;
         key < keys.window.end;) {
      const KeyRange columns{key / block_size, key / block_size + step};
      items_.push_back({units_.size(), columns, num_maxima_});
      num_maxima_ += static_cast<std::size_t>(rows_of(work));
      key = columns.end * block_size;
      // over the gap
      if (key >= keys.sink_tokens.end) key = std::max(key, keys.window.begin);
    }
    const std::int64_t num_keys = keys.sink_tokens.end + keys.window.end - keys.window.begin;
    const std::int64_t passes = passes_of(rows_of(work));
    const DType dtype = args_.k_cache.dtype;
    const auto key_bytes =
        sizes_.head_dim / numbers_of(dtype) * static_cast<std::int64_t>(size_of(dtype));
    cost_ += static_cast<double>(num_keys) * static_cast<double>(passes * key_bytes);
    units_.push_back({work, keys, first_item, items_.size() - first_item});
  }

  // Calls visit(keys, windowed) for what rows of an item see in its columns.
  template <class Visit>
  void for_ranges(const MassItem& item, Visit visit) const {
    const VisibleKeys& keys = units_[item.unit].keys;
    const auto within = [&](const KeyRange& range, bool windowed) {
      const std::int64_t begin = std::max(range.begin, item.columns.begin * sizes_.block_size);
      const std::int64_t end = std::min(range.end, item.columns.end * sizes_.block_size);
      if (begin < end) visit(KeyRange{begin, end}, windowed);
    };
    within(keys.sink_tokens, false);
    within(keys.window, keys.windowed);
  }

  void add_weights(std::size_t index, const KeyRange& keys, bool windowed, bool is_beside_open,
                   float* scratch) {
    const MassItem& item = items_[index];
    const BlockMassView mass{args_.block_mass, args_.block_tables.shape[1], item.columns.begin,
                             maxima_.data() + item.first_maximum};
    const WorkUnit& work = units_[item.unit].work;
    AttentionPart part{call_.unit(work, windowed), keys.begin, keys.end};
    part.is_beside_open = is_beside_open;
    kernels_.run(call_.task_of(work.seq), part, scratch, mass);
  }

  // An item's keys in pieces, in their order and each from where a tile begins, so that the sums
  // are those of the item as a whole. False, and nothing done, where all is in memory.
  bool run_in_stretches(const KernelLaunch& launch) {
    WorkPlan plan;
    std::vector<std::size_t> item_of;  // of each part
    std::vector<bool> has_open;        // each part
    for (const MassUnit& unit : units_) plan.units.push_back(unit.work);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      for_ranges(items_[i], [&](const KeyRange& keys, bool windowed) {
        plan.parts.push_back({static_cast<std::int64_t>(items_[i].unit), keys, windowed, 0});
        item_of.push_back(i);
        has_open.push_back(call_.has_open(units_[items_[i].unit].work, keys));
      });
    }
    StretchWalk walk(args_, plan);
    if (!walk.start()) return false;
    walk.run([&](std::span<const WorkPiece> pieces) {
      // Those of one item go to one thread, as they write the same columns.
      std::vector<std::size_t> first_of_item;
      for (std::size_t p = 0; p < pieces.size(); ++p) {
        if (p == 0 || item_of[pieces[p].part] != item_of[pieces[p - 1].part]) {
          first_of_item.push_back(p);
        }
      }
      first_of_item.push_back(pieces.size());
      launch.deal(cost_, std::ssize(first_of_item) - 1, [&](std::int64_t group, float* scratch) {
        for (std::size_t p = first_of_item[group]; p < first_of_item[group + 1]; ++p) {
          const WorkPiece& piece = pieces[p];
          add_weights(item_of[piece.part], piece.keys, plan.parts[piece.part].windowed,
                      has_open[piece.part], scratch);
        }
      });
    });
    return true;
  }

  // Sums of weights become parts of all weights and the sink.
  void divide(const MassUnit& unit) const {
    const std::int64_t rows = rows_of(unit.work);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t token = unit.work.token_begin + row / sizes_.group;
      const std::int64_t head = unit.work.kv_head_begin * sizes_.group + row % sizes_.group;
      float* const columns =
          args_.block_mass + (token * sizes_.num_heads + head) * args_.block_tables.shape[1];
      if (!divide_row(unit, row, sink_of(head), columns)) spread_nan(unit.work, token, columns);
    }
  }

  // False where a score is no number, and so nothing can be divided by all weights.
  bool divide_row(const MassUnit& unit, std::int64_t row, double sink, float* columns) const {
    const auto maximum = [&](const MassItem& item) -> double {
      return maxima_[item.first_maximum + static_cast<std::size_t>(row)];
    };
    const auto begin = items_.begin() + static_cast<std::ptrdiff_t>(unit.first_item);
    const auto end = begin + static_cast<std::ptrdiff_t>(unit.num_items);
    double largest = sink;
    for (auto item = begin; item != end; ++item) largest = std::max(largest, maximum(*item));
    if (largest == kNoKey) return true;
    const auto for_columns = [&](const MassItem& item, auto visit) {
      const std::int64_t last = std::min(item.columns.end, args_.block_tables.shape[1]);
      for (std::int64_t i = item.columns.begin; i < last; ++i) visit(columns[i]);
    };
    double total = std::exp2(sink - largest);
    for (auto item = begin; item != end; ++item) {
      double sum = 0;
      for_columns(*item, [&](float mass) { sum += mass; });
      total += sum * std::exp2(maximum(*item) - largest);
    }
    if (std::isnan(total)) return false;
    for (auto item = begin; item != end; ++item) {
      const double factor = std::exp2(maximum(*item) - largest) / total;
      for_columns(*item, [&](float& mass) { mass = static_cast<float>(mass * factor); });
    }
    return true;
  }

  // The softmax of a row is NaN as a whole: that have the blocks whose keys it sees, the others 0.
  void spread_nan(const WorkUnit& work, std::int64_t token, float* columns) const {
    const QueryRows rows = query_rows(args_, work.seq);
    const VisibleKeys keys = visible_keys(args_, rows, token - rows.begin);
    std::fill_n(columns, args_.block_tables.shape[1], 0.0f);
    const bool* const tree = trees_.empty() ? nullptr : trees_[work.seq];
    for (const KeyRange& seen : {keys.sink_tokens, keys.window}) {
      for (std::int64_t key = seen.begin; key < seen.end; ++key) {
        if (!shows(tree, rows, token - rows.begin, key)) continue;
        columns[key / sizes_.block_size] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }

  // In units of log2; -inf where there is none.
  double sink_of(std::int64_t head) const {
    const float* const sinks = call_.task().sinks;
    return sinks == nullptr ? kNoKey : static_cast<double>(sinks[head]) * std::numbers::log2e;
  }

  const PagedAttentionArgs& args_;
  const PagedAttentionSizes sizes_;
  const KernelCall call_;
  const BlockMassKernels& kernels_;
  const std::vector<const bool*> trees_ = trees_of(args_);
  std::vector<MassUnit> units_;
  std::vector<MassItem> items_;
  std::vector<float> maxima_;
  std::size_t num_maxima_ = 0;
  double cost_ = 0;
};

}  // namespace

void launch_block_mass(const PagedAttentionArgs& args, const AttentionChoice& kernels,
                       int num_threads) {
  MassLaunch(args, kernels).run(num_threads);
}

}  // namespace quire
