// The query rows of a unit on their way through the keys of one part: what each may see of a tile,
// and its softmax.
#pragma once

#include "quire/cpu/attention/attention_rows.h"
#include "quire/cpu/attention/carried_sums.h"
#include "quire/cpu/attention/key_tile.h"
#include "quire/cpu/attention/online_softmax.h"

namespace quire {

// Some rows of one KV head that go through a tile of keys together. Keys are counted from the
// tile's first.
template <int kMostRows>
struct RowGroup {
  std::int64_t head;  // KV head
  std::int64_t row;   // the first, of the head's rows: token * group + head of the group
  int count;
  std::int64_t tile_first;               // tile's first key
  int first, last;                       // keys that some row sees; none where first >= last
  int shared_first, shared_last;         // keys that every row sees; 0, 0 where there are none
  bool whole;                            // every row sees all keys of a whole tile
  int begin[kMostRows], end[kMostRows];  // keys that each sees; not set where all see all
  // Of keys from tree_begin on each sees those that its row of the tree shows, counted from there;
  // kKeys, and no rows, where there are none.
  int tree_begin;
  const bool* tree[kMostRows];

  // Whether row i sees a key between its begin and end.
  bool shows(int i, int key) const { return key < tree_begin || tree[i][key - tree_begin]; }
};

template <class S>
class PartRows {
 public:
  using Rows = AttentionRows<S>;

  PartRows(const AttentionTask& task, const AttentionUnit& unit, StateView state)
      : task_(task),
        unit_(unit),
        state_(state),
        count_(unit.num_tokens * task.group),
        v_stride_(Rows::padded(task.v_head_dim)),
        carried_(state.carried, num_states(), v_stride_),
        softmax_(task) {}

  std::int64_t count() const { return count_; }  // of a KV head

  // The states of no key; of a piece that goes on from others they stay.
  void begin(const AttentionPart& part) const {
    if (part.keys_before > 0) return;
    const std::int64_t rows = num_states();
    for (std::int64_t r = 0; r < rows; ++r) state_.maximum[r] = -__builtin_inff();
    for (std::int64_t i = 0; i < rows * S::kWidth; i += S::kWidth)
      S::store(state_.sums + i, S::zero());
    for (std::int64_t i = 0; i < rows * v_stride_; i += S::kWidth) {
      S::store(state_.values + i, S::zero());
    }
    if (carried_.are_kept()) carried_.clear();
  }

  // After a tile of a head that all of its rows have gone through. Where sums are carried over is
  // counted from the part's first key, whatever pieces it comes in.
  template <int kKeys>
  void after_tile(const AttentionPart& part, const KeyTile<S, kKeys>& tile,
                  std::int64_t head) const {
    static_assert(kSumKeys % kKeys == 0);
    if (!carried_.are_kept()) return;
    const std::int64_t end = tile.first() + tile.num_keys() - part.key_begin;
    if ((part.keys_before + end) % kSumKeys == 0) carry(head);
  }

  // After all tiles: states without anything carried, unless other pieces follow.
  void end(const AttentionPart& part) const {
    if (!carried_.are_kept() || part.goes_on) return;
    for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
      carry(head);
      for (std::int64_t r = 0; r < count_; ++r) {
        const std::int64_t row = state_row(head, r);
        carried_.give_back(row, row_state(row));
      }
    }
  }

  // Calls visitor(q row [padded head_dim] in float32, KV head less the unit's first, row of the
  // head) for every query. A negative scale turns their sign. `row`: padded head_dim floats.
  template <class Visitor>
  void for_queries(float* row, Visitor visitor) const {
    const float factor = Rows::query_factor(task_);
    for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
      std::int64_t r = 0;
      for (std::int64_t token = 0; token < unit_.num_tokens; ++token) {
        const std::int64_t q_row = Rows::token_of(unit_, token).q_row;
        for (std::int64_t g = 0; g < task_.group; ++g, ++r) {
          Rows::load_floats(Rows::at(task_.q, q_row, head * task_.group + g), task_.q.dtype,
                            task_.head_dim, factor, row);
          visitor(row, head - unit_.kv_head_begin, r);
        }
      }
    }
  }

  // Rows [row, row + count) of a head before a tile.
  template <int kMostRows, int kKeys>
  void find_group(std::int64_t head, std::int64_t row, int count, const KeyTile<S, kKeys>& tile,
                  RowGroup<kMostRows>& group) const {
    group.head = head;
    group.row = row;
    group.count = count;
    group.first = kKeys;
    group.last = 0;
    group.shared_first = 0;
    group.shared_last = tile.num_keys();
    std::int64_t token = row / task_.group;
    std::int64_t g = row % task_.group;
    group.tile_first = tile.first();
    group.tree_begin = tree_begin(tile);
    group.whole = tile.num_keys() == kKeys && group.tree_begin == kKeys && sees_all(token, tile) &&
                  sees_all((row + count - 1) / task_.group, tile);
    if (group.whole) {  // so does every row between
      group.first = group.shared_first = 0;
      group.last = group.shared_last = kKeys;
      return;
    }
    if (group.tree_begin < group.shared_last) group.shared_last = group.tree_begin;
    for (int i = 0; i < count; ++i) {
      if (group.tree_begin < kKeys) {
        const std::int64_t column = tile.first() + group.tree_begin - unit_.tree.first;
        group.tree[i] = unit_.tree.rows + token * unit_.tree.num_keys + column;
      }
      const std::int64_t own = Rows::token_of(unit_, token).own_key;
      const int begin = clamp(Rows::first_key(unit_, own) - tile.first(), tile.num_keys());
      const int end = clamp(Rows::end_key(unit_, own) - tile.first(), tile.num_keys());
      group.begin[i] = begin;
      group.end[i] = end;
      if (begin < end) {
        group.first = begin < group.first ? begin : group.first;
        group.last = end > group.last ? end : group.last;
      }
      group.shared_first = begin > group.shared_first ? begin : group.shared_first;
      group.shared_last = end < group.shared_last ? end : group.shared_last;
      if (++g == task_.group) {
        g = 0;
        ++token;
      }
    }
    if (group.shared_first >= group.shared_last) group.shared_first = group.shared_last = 0;
  }

  // Turns the group's scores [count, kKeys], of rows kStride apart, into weights, as OnlineSoftmax
  // does, and takes them into its states; those of a row that sees no key are left as they are, and
  // none of the group is shared. Calls after_row() after each.
  template <int kKeys, int kStride, class Weight, int kMostRows, class AfterRow>
  void weigh(const RowGroup<kMostRows>& group, float* scores, Weight* weights,
             const KeyScales& scales, AfterRow after_row) const {
    if (group.tree_begin < kKeys) {
      weigh_rows<kKeys, kStride, true>(group, scores, weights, scales, after_row);
    } else {  // as if there were no trees
      weigh_rows<kKeys, kStride, false>(group, scores, weights, scales, after_row);
    }
  }

  // Calls add(begin, end) for the runs of keys in [begin, end) that row i of a group sees.
  template <int kMostRows, class Add>
  static void for_runs(const RowGroup<kMostRows>& group, int i, int begin, int end, Add add) {
    while (begin < end) {
      int last = end;
      if (end > group.tree_begin) {
        while (begin < end && !group.shows(i, begin)) ++begin;
        last = begin;
        while (last < end && group.shows(i, last)) ++last;
      }
      if (begin < last) add(begin, last);
      begin = last;
    }
  }

  // Calls add(row of the group, begin, end) for the keys that a row sees beyond [shared_first,
  // shared_last). They are added row by row, as a weight of 0 would not do for a key that another
  // row may not see: 0 * NaN is NaN.
  template <int kMostRows, class Add>
  static void for_unshared(const RowGroup<kMostRows>& group, int shared_first, int shared_last,
                           Add add) {
    if (group.whole) return;
    for (int i = 0; i < group.count; ++i) {
      const int begin = group.begin[i], end = group.end[i];
      const auto add_run = [&](int first, int last) { add(i, first, last); };
      if (shared_first >= shared_last) {
        for_runs(group, i, begin, end, add_run);
        continue;
      }
      for_runs(group, i, begin, shared_first, add_run);
      for_runs(group, i, shared_last, end, add_run);
    }
  }

  // The sums of values of a head's rows from `row` on, [rows, v_stride].
  float* values(std::int64_t head, std::int64_t row) const {
    return state_.values + state_row(head, row) * v_stride_;
  }
  std::int64_t v_stride() const { return v_stride_; }

 private:
  std::int64_t num_states() const {
    return unit_.head_rows * (unit_.kv_head_end - unit_.kv_head_begin);
  }
  std::int64_t state_row(std::int64_t head, std::int64_t row) const {
    return (head - unit_.kv_head_begin) * unit_.head_rows + row;
  }
  RowState row_state(std::int64_t row) const {
    return {state_.maximum + row, state_.sums + row * S::kWidth, state_.values + row * v_stride_,
            v_stride_};
  }

  // weigh(), of a tile that has keys of a tree or of one that has none.
  template <int kKeys, int kStride, bool kHasTree, class Weight, int kMostRows, class AfterRow>
  void weigh_rows(const RowGroup<kMostRows>& group, float* scores, Weight* weights,
                  const KeyScales& scales, AfterRow after_row) const {
    const std::int64_t row = state_row(group.head, group.row);
    std::int64_t g = group.row % task_.group;
    std::int64_t token = group.row / task_.group;
    std::int64_t own = Rows::token_of(unit_, token).own_key;
    float distances[kKeys];  // where keys have positions of their own
    float shown[kKeys];      // where a tree hides some
    for (int i = 0; i < group.count; ++i) {
      const int begin = group.whole ? 0 : group.begin[i];
      const int end = group.whole ? kKeys : group.end[i];
      if (begin < end) {
        const std::int64_t q_head = group.head * task_.group + g;
        const float slope = task_.alibi_slopes == nullptr
                                ? 0.0f
                                : Rows::finite(task_.alibi_slopes[q_head] * Rows::kLog2E);
        softmax_.template update<kKeys, kHasTree, Weight>(
            scores + i * kStride, weights + i * kStride, scales, begin, end, slope,
            {static_cast<float>(group.tile_first - own),
             find_distances(group.tile_first, own, end, slope, distances)},
            kHasTree ? find_shown(group, i, begin, end, shown) : nullptr, row_state(row + i));
      }
      after_row();
      if (++g == task_.group) {
        g = 0;
        if (++token < unit_.num_tokens) own = Rows::token_of(unit_, token).own_key;
      }
    }
  }

  void carry(std::int64_t head) const {
    for (std::int64_t r = 0; r < count_; ++r) {
      const std::int64_t row = state_row(head, r);
      carried_.take(row, row_state(row));
    }
  }

  // Of the positions of a tile's first `end` keys from that of key `own`; null where they follow
  // each other, or nothing depends on them.
  template <int kKeys>
  const float* find_distances(std::int64_t tile_first, std::int64_t own, int end, float slope,
                              float (&distances)[kKeys]) const {
    if (unit_.positions == nullptr || slope == 0) return nullptr;
    const std::int64_t* const keys = unit_.positions + tile_first;
    const std::int64_t position = Rows::position_of(unit_, own);
    for (int key = 0; key < kKeys; ++key) {
      distances[key] = key < end ? static_cast<float>(keys[key] - position) : 0.0f;
    }
    return distances;
  }

  // Where the keys of a tile begin that a tree hides from some row.
  template <int kKeys>
  int tree_begin(const KeyTile<S, kKeys>& tile) const {
    if (unit_.tree.rows == nullptr) return kKeys;
    const std::int64_t begin = unit_.tree.first - tile.first();
    return begin >= tile.num_keys() ? kKeys : clamp(begin, kKeys);
  }

  // 1 for the keys that a row sees of a tile with keys of a tree, 0 for others.
  template <int kMostRows, int kKeys>
  static const float* find_shown(const RowGroup<kMostRows>& group, int i, int begin, int end,
                                 float (&shown)[kKeys]) {
    for (int key = 0; key < kKeys; ++key) {
      const bool sees = key >= begin && key < end && group.shows(i, key);
      shown[key] = sees ? 1.0f : 0.0f;
    }
    return shown;
  }

  template <int kKeys>
  bool sees_all(std::int64_t token, const KeyTile<S, kKeys>& tile) const {
    const std::int64_t own = Rows::token_of(unit_, token).own_key;
    return Rows::first_key(unit_, own) <= tile.first() &&
           Rows::end_key(unit_, own) >= tile.first() + kKeys;
  }

  static int clamp(std::int64_t key, int num_keys) {
    return static_cast<int>(key < 0 ? 0 : key > num_keys ? num_keys : key);
  }

  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const StateView state_;
  const std::int64_t count_;
  const std::int64_t v_stride_;
  const CarriedSums<S> carried_;
  const OnlineSoftmax<S> softmax_;
};

}  // namespace quire
