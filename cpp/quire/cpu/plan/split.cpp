#include "quire/cpu/plan/split.h"

#include <algorithm>

namespace quire {
namespace {

// A part is worth its own state and merging from this many bytes and keys on.
constexpr std::int64_t kPartBytes = 256 * 1024;
constexpr std::int64_t kPartKeys = 256;
constexpr std::int64_t kShortPartKeys = 128;  // where there would be few parts otherwise
constexpr std::int64_t kFewParts = 16;
constexpr std::int64_t kFewGridParts = 8;
constexpr std::int64_t kKeyStep =
    128;  // parts end at multiples of this, counted from the first key

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// What a unit has of a sequence, or less at its end.
struct UnitSize {
  std::int64_t tokens, heads;  // KV heads
};

UnitSize unit_size(const PagedAttentionSizes& sizes, std::int64_t tokens) {
  const bool all_rows = tokens * sizes.num_heads <= kRowsOfAllHeads;
  return {all_rows ? tokens : std::max<std::int64_t>(1, kRowsOfOneHead / sizes.group),
          all_rows ? sizes.num_kv_heads : 1};
}

// Where the keys end that some of the rows [begin, end) of a sequence sees, by its tree. Keys
// before those of the next unit are not left out, as nobody else would look at their scales; so all
// belong to the last.
std::int64_t tree_end(const PagedAttentionArgs& args, const QueryRows& rows, const bool* tree,
                      std::int64_t begin, std::int64_t end) {
  const std::int64_t n = rows.end - rows.begin;
  if (end == n) return rows.seq_len;
  std::int64_t columns = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    std::int64_t last = n;
    while (last > columns && !tree[row * n + last - 1]) --last;
    columns = last;
  }
  return std::max(
      {std::int64_t{0}, rows.key(0) + columns, visible_keys(args, rows, end).window.begin});
}

class Planner {
 public:
  Planner(const PagedAttentionArgs& args, WorkPlan& plan, std::int64_t part_grid)
      : args_(args),
        sizes_(sizes_of(args)),
        plan_(plan),
        tree_ends_(tree_ends(args)),
        grid_(part_grid) {
    const auto row_bytes = [](const ArrayView& cache) {
      return cache.shape[3] * static_cast<std::int64_t>(size_of(cache.dtype));
    };
    bytes_per_key_ = row_bytes(args.k_cache) + row_bytes(args.v_cache);
    if (args.k_tail) bytes_per_key_ += row_bytes(*args.k_tail);
  }

  void add_sequence(std::int64_t seq) {
    const QueryRows rows = query_rows(args_, seq);
    const std::int64_t tokens = rows.end - rows.begin;
    if (tokens == 0) return;
    UnitSize unit = unit_size(sizes_, tokens);
    if (unit.heads > 1) unit.heads = heads_together(rows.seq_len);
    const std::int64_t units_per_head = ceil_div(tokens, unit.tokens);  // or per so many heads
    const std::int64_t num_units = units_per_head * ceil_div(sizes_.num_kv_heads, unit.heads);
    for (std::int64_t head = 0; head < sizes_.num_kv_heads; head += unit.heads) {
      for (std::int64_t i = 0; i < units_per_head; ++i) {
        const std::int64_t begin = i * unit.tokens;
        const std::int64_t end = std::min(begin + unit.tokens, tokens);
        VisibleKeys keys = visible_keys(args_, rows, begin, end);
        if (!tree_ends_.empty()) {
          const std::int64_t tree_end = tree_ends_[next_tree_end_ + i];
          keys.window.end = std::clamp(tree_end, keys.window.begin, keys.window.end);
        }
        add_unit({.seq = seq,
                  .token_begin = rows.begin + begin,
                  .token_end = rows.begin + end,
                  .kv_head_begin = head,
                  .kv_head_end = head + unit.heads,
                  .keys = keys},
                 num_units);
      }
    }
    next_tree_end_ += units_per_head;
  }

 private:
  // KV heads of a unit of few rows: all, unless a grid leaves too few parts for that.
  std::int64_t heads_together(std::int64_t num_keys) const {
    const std::int64_t all = sizes_.num_kv_heads;
    if (grid_ == 0) return all;
    const std::int64_t parts = std::max<std::int64_t>(1, ceil_div(num_keys, grid_));
    std::int64_t heads = std::max<std::int64_t>(1, all * parts / kFewGridParts);
    if (heads >= all) return all;
    while (all % heads != 0) --heads;
    return heads;
  }

  void add_unit(WorkUnit unit, std::int64_t num_units) {
    const KeyRange& sink_tokens = unit.keys.sink_tokens;
    const KeyRange& window = unit.keys.window;
    const std::int64_t heads = unit.num_heads();
    const std::int64_t passes = passes_of(unit.num_tokens() * sizes_.group);
    const auto cost_per_key = static_cast<double>(heads * bytes_per_key_ * passes);
    unit.first_part = static_cast<std::int64_t>(plan_.parts.size());
    if (grid_ != 0) {
      unit.part_keys = grid_;
      add_grid_parts(unit, num_units, cost_per_key);
      plan_.units.push_back(unit);
      return;
    }
    const std::int64_t num_keys = sink_tokens.end + window.end - window.begin;
    // two ranges may need one part more than one does
    const std::int64_t most_parts =
        std::max<std::int64_t>(1, kMostKeyParts / num_units - (sink_tokens.end > 0));
    const std::int64_t least_keys =
        std::max(std::clamp(num_keys / kFewParts, kShortPartKeys, kPartKeys),
                 ceil_div(kPartBytes, heads * bytes_per_key_));
    unit.part_keys =
        ceil_div(std::max(least_keys, ceil_div(num_keys, most_parts)), kKeyStep) * kKeyStep;
    if (sink_tokens.end > 0) add_parts(unit, sink_tokens, false, cost_per_key);
    add_parts(unit, window, unit.keys.windowed, cost_per_key);
    plan_.units.push_back(unit);
  }

  // One for each cell of the grid that some row sees something of, or one for all.
  void add_grid_parts(WorkUnit& unit, std::int64_t num_units, double cost_per_key) {
    const KeyRange& sink_tokens = unit.keys.sink_tokens;
    const KeyRange& window = unit.keys.window;
    KeyRange all = window;
    if (sink_tokens.end > 0) {
      all = {0, window.begin < window.end ? window.end : sink_tokens.end};
    }
    const auto keys_of = [&](std::int64_t cell) {
      KeyRange keys{std::max(cell * grid_, all.begin), std::min((cell + 1) * grid_, all.end)};
      if (keys.begin >= sink_tokens.end) keys.begin = std::max(keys.begin, window.begin);
      if (keys.end <= window.begin) keys.end = std::min(keys.end, sink_tokens.end);
      return keys;
    };
    std::int64_t count = 0;
    for (std::int64_t cell = all.begin / grid_; cell * grid_ < all.end; ++cell) {
      const KeyRange keys = keys_of(cell);
      count += keys.begin < keys.end;
    }
    if (count == 0 || count * num_units > kMostGridParts) {
      return add_part(unit, all, unit.keys.windowed, cost_per_key);
    }
    for (std::int64_t cell = all.begin / grid_; cell * grid_ < all.end; ++cell) {
      const KeyRange keys = keys_of(cell);
      if (keys.begin < keys.end) add_part(unit, keys, unit.keys.windowed, cost_per_key);
    }
  }

  // One at least, also of no keys.
  void add_parts(WorkUnit& unit, const KeyRange& keys, bool windowed, double cost_per_key) {
    std::int64_t begin = keys.begin;
    do {
      const std::int64_t end = std::min(begin + unit.part_keys, keys.end);
      add_part(unit, {begin, end}, windowed, cost_per_key);
      begin = end;
    } while (begin < keys.end);
  }

  void add_part(WorkUnit& unit, const KeyRange& keys, bool windowed, double cost_per_key) {
    const double cost = static_cast<double>(keys.end - keys.begin) * cost_per_key;
    plan_.parts.push_back(
        {static_cast<std::int64_t>(plan_.units.size()), keys, windowed, cost, grid_ != 0});
    plan_.cost += cost;
    plan_.most_part_keys = std::max(plan_.most_part_keys, keys.end - keys.begin);
    ++unit.num_parts;
  }

  const PagedAttentionArgs& args_;
  const PagedAttentionSizes sizes_;
  WorkPlan& plan_;
  const std::vector<std::int64_t> tree_ends_;
  std::int64_t next_tree_end_ = 0;  // of the sequence that comes next
  std::int64_t bytes_per_key_;
  const std::int64_t grid_;
};

}  // namespace

std::vector<std::int64_t> tree_ends(const PagedAttentionArgs& args) {
  std::vector<std::int64_t> ends;
  const std::vector<const bool*> trees = trees_of(args);
  const PagedAttentionSizes sizes = sizes_of(args);
  for (std::int64_t seq = 0; seq < std::ssize(trees); ++seq) {
    const QueryRows rows = query_rows(args, seq);
    const std::int64_t tokens = rows.end - rows.begin;
    const std::int64_t step = unit_size(sizes, tokens).tokens;
    for (std::int64_t begin = 0; begin < tokens; begin += step) {
      ends.push_back(tree_end(args, rows, trees[seq], begin, std::min(begin + step, tokens)));
    }
  }
  return ends;
}

void plan_work(const PagedAttentionArgs& args, WorkPlan& plan, std::int64_t part_grid) {
  plan.units.clear();
  plan.parts.clear();
  plan.cost = 0;
  plan.most_part_keys = 0;
  Planner planner(args, plan, part_grid);
  for (std::int64_t seq = 0; seq < args.seq_lens.shape[0]; ++seq) planner.add_sequence(seq);
}

}  // namespace quire
