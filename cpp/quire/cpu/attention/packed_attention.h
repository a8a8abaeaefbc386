// Many query rows for a KV head: a group of heads that share it, or several query tokens. Each tile
// is packed once (packed_tile.h) and multiplied by all rows, a group at a time.
#pragma once

#include "quire/cpu/attention/packed_product.h"
#include "quire/cpu/attention/tile_walk.h"

namespace quire {

// kKeys: keys that are taken at a time.
template <class S, int kKeys>
class PackedAttention {
 public:
  using Rows = AttentionRows<S>;
  static constexpr int kMostRows = S::kRowGroups[0];

  // `rows`: of all states of the unit.
  static std::int64_t scratch_floats(const AttentionTask& task, std::int64_t rows) {
    return group_floats(rows) + (2 * rows + kPanel + 2) * kKeys +
           (kPanel + rows + 1) * Rows::padded(task.head_dim);
  }

  // `pairs_of_bytes`: numbers of 8 bits are multiplied as bfloat16s, if the vocabulary has those.
  PackedAttention(const AttentionTask& task, const AttentionUnit& unit, float* scratch,
                  StateView state, bool pairs_of_bytes)
      : pairs_of_bytes_(pairs_of_bytes),
        task_(task),
        unit_(unit),
        rows_(task, unit, state),
        q_stride_(Rows::padded(task.head_dim)),
        groups_(reinterpret_cast<Group*>(scratch)),
        scores_(scratch + group_floats(unit.head_rows)),
        weights_(scores_ + unit.head_rows * kKeys),
        scales_(weights_ + unit.head_rows * kKeys),
        v_(scales_ + 2 * kKeys),
        k_(v_ + kPanel * kKeys),
        q_(k_ + kPanel * q_stride_) {
    choose_functions();
  }

  void run(const AttentionPart& part, const AttentionPart* upcoming) {
    rows_.begin(part);
    TileWalk<S, kKeys>::run_rows(
        task_, rows_, part, upcoming, [&] { prepare_queries(); },
        [&](int num_keys) { return work_of_tile(num_keys); },
        [&](const Tile& tile, std::int64_t head, Lines& lines) { attend_tile(tile, head, lines); });
    rows_.end(part);
  }

 private:
  static constexpr int kPanel = 2 * S::kWidth;
  static constexpr int kNumSizes = sizeof(S::kRowGroups) / sizeof(S::kRowGroups[0]);

  using Tile = KeyTile<S, kKeys>;
  using Group = RowGroup<kMostRows>;
  using Lines = LineQueue<S>;
  using Score = void (*)(const float*, const float*, int, float*, Lines&);
  using Value = void (*)(const float*, const ValueSpan&, Lines&);
  using Panel = void (*)(const float*, const float*, int, int, float*, std::int64_t, Lines&);
  using PackValues = void (*)(TileRows, int, std::int64_t, std::int64_t, float*, Lines&);
  using PackKeys = void (*)(TileRows, int, std::int64_t, float*, Lines&);
  using Weigh = void (*)(const PartRows<S>&, const Group&, float*, float*, const KeyScales&,
                         Lines&);

  // Rows of the group that begins where `left` rows, a multiple of kRowStep, are left: the most
  // that leave none, or enough for the next size.
  static int group_size(std::int64_t left) {
    for (int i = 0; i + 1 < kNumSizes; ++i) {
      const std::int64_t rest = left - S::kRowGroups[i];
      if (rest == 0 || rest >= S::kRowGroups[i + 1]) return S::kRowGroups[i];
    }
    return S::kRowGroups[kNumSizes - 1];
  }
  static_assert(S::kRowGroups[kNumSizes - 1] == kRowStep, "sizes add up to any multiple of it");

  // Where products are of pairs, packed entries hold two elements.
  int k_elements() const { return score_pairs_ ? 2 : 1; }
  int v_elements() const { return value_pairs_ ? 2 : 1; }

  // Queries as [group][block of kWidth entries][row of the group][kWidth]; rows past the last are
  // zero.
  void prepare_queries() {
    const std::int64_t heads = unit_.kv_head_end - unit_.kv_head_begin;
    const std::int64_t floats = heads * unit_.head_rows * q_stride_;
    if (unit_.head_rows != rows_.count()) {
      for (std::int64_t i = 0; i < floats; i += S::kWidth) S::store(q_ + i, S::zero());
    }
    std::int64_t begin = 0;  // of the row's group
    int size = group_size(unit_.head_rows);
    rows_.for_queries(q_ + floats, [&](const float* row, std::int64_t head, std::int64_t r) {
      if (r == 0 || r == begin + size) {
        begin = r;
        size = group_size(unit_.head_rows - r);
      }
      float* const to = q_group(head, begin) + (r - begin) * S::kWidth;
      for (std::int64_t d = 0; d < q_stride_; d += S::kWidth) {
        if (score_pairs_) {
          S::store(reinterpret_cast<BFloat16*>(to + d / kPanel * size * S::kWidth) + d % kPanel,
                   S::load(row + d));
        } else {
          S::store(to + d * size, S::load(row + d));
        }
      }
    });
  }

  // `head` counted from the unit's first.
  float* q_group(std::int64_t head, std::int64_t row) const {
    return q_ + (head * unit_.head_rows + row) * q_stride_;
  }

  void attend_tile(const Tile& tile, std::int64_t head, Lines& lines) {
    find_groups(head, tile);
    for (int key = 0; key < tile.num_keys(); key += kPanel) {
      pack_keys_(tile.k(task_, head), key, task_.head_dim, k_, lines);
      for_groups([&](const Group& group, int size) {
        if (group.last <= key || group.first >= key + kPanel) return;
        functions_for(size).score(q_group(head - unit_.kv_head_begin, group.row), k_, entries(),
                                  scores(group) + key, lines);
      });
    }
    const KeyScales scales = tile.load_scales(task_, head, scales_);
    for_groups([&](const Group& group, int) {
      if (group.first >= group.last) return;
      weigh_(rows_, group, scores(group), weights_ + group.row * kKeys / 2, scales, lines);
    });
    add_values(tile, head, lines);
  }

  // The groups of a head's rows before a tile, once for all panels that they meet.
  void find_groups(std::int64_t head, const Tile& tile) {
    num_groups_ = 0;
    for (std::int64_t r = 0; r < rows_.count(); r += group_size(unit_.head_rows - r)) {
      const std::int64_t size = group_size(unit_.head_rows - r);
      const int count = static_cast<int>(Rows::smaller(size, rows_.count() - r));
      rows_.find_group(head, r, count, tile, groups_[num_groups_++]);
    }
  }

  // Calls visitor(group, rows with padding) for them.
  template <class Visitor>
  void for_groups(Visitor visitor) const {
    for (int i = 0; i < num_groups_; ++i) {
      visitor(groups_[i], group_size(unit_.head_rows - groups_[i].row));
    }
  }

  // Memory of the groups of so many rows, whole lines.
  static std::int64_t group_floats(std::int64_t rows) {
    constexpr std::int64_t kLine = 16, kGroup = sizeof(Group) / sizeof(float);
    return ((rows + kRowStep - 1) / kRowStep * kGroup + kLine - 1) / kLine * kLine;
  }

  std::int64_t work_of_tile(int num_keys) const {
    const std::int64_t panels = (num_keys + kPanel - 1) / kPanel;
    const std::int64_t chunks = (task_.v_head_dim + kPanel - 1) / kPanel;
    const std::int64_t k_chunks = (task_.head_dim + kPanel - 1) / kPanel;
    return panels * k_chunks * 2 * PackedKeys<S>::kTurnWork +
           unit_.head_rows * (panels * entries() * kValueWork + kWeighWork +
                              num_keys / v_elements() * chunks * kValueWork);
  }
  static constexpr int kWeighWork = 64 * kValueWork;  // of one row's softmax

  int entries() const {
    return static_cast<int>((task_.head_dim + k_elements() - 1) / k_elements());
  }
  float* scores(const Group& group) const { return scores_ + group.row * kKeys; }

  // Entries of the keys that all rows of a group see. Pairs of keys begin at an even one.
  int first_entry(const Group& group) const {
    return (group.shared_first + v_elements() - 1) / v_elements();
  }
  int last_entry(const Group& group) const { return group.shared_last / v_elements(); }

  // Values are packed where enough groups share the copy.
  void add_values(const Tile& tile, std::int64_t head, Lines& lines) {
    const TileRows v = tile.v(task_, head);
    const bool packs = unit_.head_rows >= kRowsWorthPacking;
    for (std::int64_t d = 0; packs && d < task_.v_head_dim; d += kPanel) {
      pack_values_(v, (tile.num_keys() + v_elements() - 1) / v_elements(), d, task_.v_head_dim, v_,
                   lines);
      for_groups([&](const Group& group, int size) {
        const int first = first_entry(group), last = last_entry(group);
        if (first >= last) return;
        functions_for(size).panel(weights(group), v_, first, last,
                                  rows_.values(head, group.row) + d, rows_.v_stride(), lines);
      });
    }
    for_groups([&](const Group& group, int size) {
      if (group.first >= group.last) return;
      float* const values = rows_.values(head, group.row);
      const int first = first_entry(group), last = last_entry(group);
      if (!packs && first < last) {
        functions_for(size).value(
            weights(group), {v, first, last, task_.v_head_dim, values, rows_.v_stride()}, lines);
      }
      rows_.for_unshared(
          group, first * v_elements(), last * v_elements(), [&](int i, int begin, int end) {
            add_values_(
                scores(group) + i * kKeys,
                {v, begin, end, task_.v_head_dim, values + i * rows_.v_stride(), rows_.v_stride()},
                lines);
          });
    });
  }
  static constexpr int kRowsWorthPacking = 64;

  template <class Weight>
  static void weigh(const PartRows<S>& rows, const Group& group, float* scores, float* weights,
                    const KeyScales& scales, Lines& lines) {
    rows.template weigh<kKeys, kKeys>(group, scores, reinterpret_cast<Weight*>(weights), scales,
                                      [&] { lines.advance(kWeighWork); });
  }

  // What values are multiplied by: floats, or pairs of bfloat16, which they have been rounded to.
  const float* weights(const Group& group) const {
    return value_pairs_ ? weights_ + group.row * kKeys / 2 : scores(group);
  }

  template <class T>
  using OneRow = FloatValues<S, T, FloatProduct<S>, kKeys>;

  struct Functions {
    Score score;
    Value value;
    Panel panel;
  };

  const Functions& functions_for(int size) const {
    int i = 0;
    while (S::kRowGroups[i] != size) ++i;
    return functions_[i];
  }

  template <int i, class ScoreProduct, class ValueProduct, class T>
  void use_products() {
    if constexpr (i < kNumSizes) {
      constexpr int kRows = S::kRowGroups[i];
      functions_[i] = {&PackedProduct<S, ScoreProduct>::template score<kRows, kKeys>,
                       &FloatValues<S, T, ValueProduct, kKeys>::template run<kRows>,
                       &PackedProduct<S, ValueProduct>::template add_panel<kRows, kKeys>};
      pack_values_ = &PackedValues<S>::template pack<T, ValueProduct>;
      use_products<i + 1, ScoreProduct, ValueProduct, T>();
    }
  }

  // Whose numbers are bfloat16s, so that products of pairs of them are exact.
  bool is_pairs(DType dtype) const {
    if (dtype == DType::bfloat16) return true;
    return pairs_of_bytes_ && (dtype == DType::int8 || dtype == DType::float8_e4m3fn);
  }
  template <class Visitor>
  static void visit_pairs(DType dtype, Visitor visitor) {
    if (dtype == DType::int8) return visitor(Int8{});
    if (dtype == DType::float8_e4m3fn) return visitor(Float8E4M3{});
    visitor(BFloat16{});
  }

  void choose_functions() {
    using Floats = FloatProduct<S>;
    weigh_ = &weigh<float>;
    Rows::visit_cache(task_.k.dtype, [&](auto type) {
      pack_keys_ = &PackedKeys<S>::template pack<decltype(type), Floats>;
    });
    if constexpr (S::kDotsBFloat16) {
      using Pairs = BFloat16PairProduct<S>;
      constexpr DType kType = DType::bfloat16;
      score_pairs_ = task_.q.dtype == kType && is_pairs(task_.k.dtype);
      value_pairs_ = score_pairs_ && is_pairs(task_.v.dtype) && task_.out.dtype == kType;
      if (score_pairs_) {
        visit_pairs(task_.k.dtype, [&](auto type) {
          pack_keys_ = &PackedKeys<S>::template pack<decltype(type), Pairs>;
        });
      }
      if (value_pairs_) {
        weigh_ = &weigh<BFloat16>;
        return visit_pairs(task_.v.dtype, [&](auto type) {
          add_values_ = &OneRow<decltype(type)>::template run<1>;
          use_products<0, Pairs, Pairs, decltype(type)>();
        });
      }
    }
    Rows::visit_cache(task_.v.dtype, [&](auto type) {
      using T = decltype(type);
      add_values_ = &OneRow<T>::template run<1>;
      if constexpr (S::kDotsBFloat16) {
        if (score_pairs_) return use_products<0, BFloat16PairProduct<S>, Floats, T>();
      }
      use_products<0, Floats, Floats, T>();
    });
  }

  const bool pairs_of_bytes_;
  const AttentionTask& task_;
  const AttentionUnit& unit_;
  const PartRows<S> rows_;
  const std::int64_t q_stride_;
  Group* const groups_;  // of a head's rows before a tile
  int num_groups_ = 0;
  float* const scores_;   // [head_rows, kKeys]
  float* const weights_;  // likewise; bfloat16, where pairs are multiplied
  float* const scales_;   // [2, kKeys]
  float* const v_;        // a panel of PackedValues
  float* const k_;        // a panel of PackedKeys
  float* const q_;
  bool score_pairs_ = false;
  bool value_pairs_ = false;
  Functions functions_[kNumSizes];
  PackKeys pack_keys_;
  PackValues pack_values_;
  Value add_values_;  // of one row
  Weigh weigh_;
};

}  // namespace quire
