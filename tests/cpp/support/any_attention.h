// One problem of attention by choices of any kind: a fuzzer's bytes, or random numbers. Every sort
// of cache, sequence and option is among them, with what no query may look at being poison.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/ops/cache/cache_scales.h"
#include "support/sealed_problem.h"
#include "support/shared_problem.h"

namespace quire::testing {

class AnyAttention {
 public:
  // `next`: a number from 0 to 255 at each call.
  explicit AnyAttention(std::function<std::uint32_t()> next)
      : next_(std::move(next)), problem_(any_sizes(), seed()) {
    problem_.out = Array(any_float(), problem_.out.shape);
    share_prefixes();
    args_ = problem_.args();
    choose_options();
    choose_positions();
    own_tables();
    if (is_sealed_) seal();
    for (Array* const array : {&problem_.q, &problem_.k_cache, &problem_.v_cache}) {
      if (one_of({0, 0, 0, 1}) == 1) spoil(*array);
    }
    if (one_of({0, 0, 0, 1}) == 1) spoil_a_scale();
    hide_unseen();
  }
  AnyAttention(const AnyAttention&) = delete;
  AnyAttention& operator=(const AnyAttention&) = delete;

  const Problem& problem() const { return problem_; }
  const PagedAttentionArgs& args() const { return args_; }
  bool is_sealed() const { return is_sealed_; }

  // How large scores may be, before they are capped, but for what is no number.
  double largest_score() const {
    const ProblemSizes& sizes = problem_.sizes;
    const double scale = args_.scale.value_or(1 / std::sqrt(static_cast<double>(sizes.head_dim)));
    const double product = longest_row(problem_.q, sizes.head_dim) *
                           longest_row(problem_.k_cache, sizes.head_dim) * std::abs(scale);
    const double slope = args_.alibi_slopes ? kSlope * 4 * kFarthest : 0;
    return product + slope;
  }

  std::string description() const {
    const ProblemSizes& sizes = problem_.sizes;
    std::string text = "(queries, keys):";
    for (std::size_t seq = 0; seq < sizes.seq_lens.size(); ++seq) {
      text += concat(" (", sizes.q_lens[seq], ", ", sizes.seq_lens[seq], ")");
    }
    return text + concat(", heads ", sizes.num_kv_heads, " x ", sizes.group, ", D ", sizes.head_dim,
                         ", Dv ", sizes.v_head_dim, ", block ", sizes.block_size, ", ",
                         name_of(args_.q.dtype), " ", name_of(args_.k_cache.dtype), " ",
                         name_of(args_.v_cache.dtype), " to ", name_of(args_.out.dtype),
                         args_.k_open ? concat(", open ", name_of(args_.k_open->dtype)) : "",
                         causal_text(), ", window ", args_.sliding_window.value_or(0), sides_text(),
                         ", sink tokens ", args_.num_sink_tokens, ", softcap ",
                         args_.softcap.value_or(0), ", scale ", args_.scale.value_or(NAN),
                         args_.alibi_slopes ? ", alibi" : "", args_.sinks ? ", sinks" : "",
                         args_.tree_mask ? ", trees" : "", args_.key_positions ? ", positions" : "",
                         spoilt_);
  }

 private:
  std::string causal_text() const {
    if (!args_.causal_of_each) return args_.causal ? ", causal" : "";
    std::string text = ", causal";
    for (const bool causal : *args_.causal_of_each) text += causal ? " yes" : " no";
    return text;
  }
  std::string sides_text() const {
    if (!args_.window_sides) return "";
    return concat(" (", args_.window_sides->left, ", ", args_.window_sides->right, ")");
  }

  static constexpr float kSlope = 0.002f;
  static constexpr std::int64_t kFarthest = 1500;  // of two tokens

  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[next_() % choices.size()];
  }
  // Below `count`.
  std::int64_t below(std::int64_t count) { return (next_() << 8 | next_()) % count; }
  unsigned seed() { return next_() << 8 | next_(); }
  DType any_float() { return one_of({DType::float32, DType::bfloat16, DType::float16}); }

  ProblemSizes any_sizes() {
    ProblemSizes sizes;
    is_sealed_ = one_of({false, true});
    sealed_ = one_of({DType::int4, DType::int8, DType::float8_e4m3fn, DType::float8_e5m2});
    sizes.seq_lens.clear();
    const int batch = one_of({1, 1, 2, 4});
    for (int i = 0; i < batch; ++i) {
      sizes.seq_lens.push_back(
          one_of<std::int64_t>({0, 1, 2, 15, 16, 17, 31, 54, 97, 128, 129, 300, 515, 700}));
      const std::int64_t keys = sizes.seq_lens.back();
      const std::int64_t most =
          one_of({0, 0, 0, 1}) == 1 ? keys + 20 : std::max<std::int64_t>(1, keys);
      sizes.q_lens.push_back(
          std::min(most, one_of<std::int64_t>({1, 1, 1, 2, 3, 5, 0, 17, 40, keys + 1})));
    }
    sizes.num_kv_heads = one_of({1, 2, 3});
    sizes.group = one_of({1, 2, 3, 4, 5, 7, 8, 13});
    sizes.head_dim = one_of<std::int64_t>({2, 6, 16, 34, 64, 80, 100, 128, 192});
    sizes.v_head_dim = one_of<std::int64_t>({0, 0, 0, 2, 16, 40, 90, 128});
    if (sizes.v_head_dim == 0) sizes.v_head_dim = sizes.head_dim;
    if (!is_sealed_ || sealed_ != DType::int4) {  // int4's are even
      sizes.head_dim -= one_of({0, 0, 0, 1});
      sizes.v_head_dim -= one_of({0, 0, 0, 1});
    }
    sizes.block_size = one_of<std::int64_t>({1, 3, 8, 16, 16, 32, 100});
    sizes.q_dtype = any_float();
    if (!is_sealed_) sizes.k_dtype = any_float();
    if (!is_sealed_) sizes.v_dtype = one_of({false, true}) ? any_float() : sizes.k_dtype;
    sizes.layout = one_of({Layout::NHD, Layout::HND});
    sizes.q_magnitude = one_of({1.0f, 0.05f, 4.0f});
    return sizes;
  }

  void share_prefixes() {
    if (one_of({false, true})) return;
    const ProblemSizes& sizes = problem_.sizes;
    for (std::size_t seq = 1; seq < sizes.seq_lens.size(); ++seq) {
      const std::int64_t common = std::min(sizes.seq_lens[0], sizes.seq_lens[seq]);
      share_blocks(problem_, 0, static_cast<std::int64_t>(seq),
                   common / sizes.block_size * sizes.block_size);
    }
  }

  void choose_options() {
    const std::int64_t num_heads = problem_.sizes.num_kv_heads * problem_.sizes.group;
    slopes_ = problem_.filled(DType::float32, {num_heads}, kSlope);
    sinks_ = problem_.filled(DType::float32, {num_heads}, 2.0f);
    args_.causal = one_of({true, true, true, false});
    if (one_of({false, false, true})) {
      args_.sliding_window = one_of<std::int64_t>({1, 7, 33, 64, 300, 5000});
    }
    if (one_of({false, false, true})) {
      const auto side = [&] { return one_of<std::int64_t>({-1, 0, 1, 7, 40, 300, 5000}); };
      const std::int64_t left = side();
      args_.window_sides = WindowSides{left, side()};
      args_.sliding_window = std::nullopt;
    }
    if (one_of({false, false, true})) {
      const std::size_t num_seqs = problem_.sizes.seq_lens.size();
      for (std::size_t seq = 0; seq < num_seqs; ++seq) causal_[seq] = one_of({false, true});
      args_.causal_of_each = std::span<const bool>(causal_.data(), num_seqs);
    }
    if (one_of({false, false, false, true})) {
      const std::vector<std::int64_t>& q_lens = problem_.sizes.q_lens;
      std::size_t count = 0;
      for (const std::int64_t n : q_lens) count += static_cast<std::size_t>(n * n);
      tree_ = std::make_unique<bool[]>(count);
      std::mt19937 random(seed());
      const unsigned out_of_8 = one_of({1, 4, 7});
      for (std::size_t i = 0; i < count; ++i) tree_[i] = random() % 8 < out_of_8;
      args_.tree_mask = std::span<const bool>(tree_.get(), count);
    }
    args_.num_sink_tokens = one_of<std::int64_t>({0, 0, 1, 4, 20, 70});
    if (one_of({false, false, true})) args_.softcap = one_of({0.5, 30.0});
    if (one_of({false, false, true})) args_.scale = one_of({0.0, -0.3, 0.3});
    if (one_of({false, false, true})) args_.alibi_slopes = slopes_.view();
    if (one_of({false, false, true})) args_.sinks = sinks_.view();
  }

  void choose_positions() {
    if (one_of({true, true, true, false})) return;
    const auto num_seqs = static_cast<std::int64_t>(problem_.sizes.seq_lens.size());
    const std::int64_t most = std::max<std::int64_t>(1, std::ranges::max(problem_.sizes.seq_lens));
    std::mt19937 random(seed());
    for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
      for (std::int64_t key = 0, position = 0; key < most; ++key) {
        positions_.push_back(position);
        position += 1 + random() % 3 / 2;
      }
    }
    args_.key_positions = contiguous_index_view(positions_.data(), {num_seqs, most});
  }

  void seal() {
    const OpenBlocksOf open{one_of({0.0, 0.3, 1.0}), any_float(), sealed_,
                            one_of<std::int64_t>({0, 1, 2})};
    sealed_problem_ = std::make_unique<SealedProblem>(problem_, open, seed());
    args_ = sealed_problem_->args(args_);
    own_tables();
    const std::int64_t num_blocks = args_.k_cache.shape[0];
    const bool uses_open =
        std::any_of(tables_.begin(), tables_.end(), [&](auto id) { return id >= num_blocks; });
    if (!uses_open && one_of({false, true})) args_.k_open = args_.v_open = std::nullopt;
  }

  // An element that is no number; of a cache that is sealed it is one of an open block's.
  void spoil(Array& array) {
    Array* where = &array;
    if (is_sealed_ && &array != &problem_.q) {
      if (!args_.k_open) return;
      where = &array == &problem_.k_cache ? &sealed_problem_->k_open() : &sealed_problem_->v_open();
    }
    if (where->size() == 0) return;
    const std::int64_t at = below(where->size());
    where->set(at, kNaN);
    spoilt_ += concat(", spoilt ", at, " of ",
                      &array == &problem_.q         ? "q"
                      : &array == &problem_.k_cache ? "keys"
                                                    : "values");
  }

  // A scale or grid of a slot that some sequence has, which is refused where a query sees it.
  void spoil_a_scale() {
    const auto seq = below(static_cast<std::int64_t>(problem_.sizes.seq_lens.size()));
    const std::int64_t length = problem_.sizes.seq_lens[static_cast<std::size_t>(seq)];
    if (!is_sealed_ || length == 0) return;
    const std::int64_t key = below(length), head = below(problem_.sizes.num_kv_heads);
    const std::int64_t block = table_entry(seq, key), offset = key % problem_.sizes.block_size;
    if (block >= args_.k_cache.shape[0]) return;
    const bool of_keys = one_of({false, true});
    const float wrong = one_of({kNaN, -1.0f, 0.0f, kInfinity});
    spoilt_ += concat(", scale of ", of_keys ? "key " : "value ", key, " of sequence ", seq);
    if (sealed_ != DType::int4) {
      *scale_at(of_keys ? *args_.k_scale : *args_.v_scale, block, offset, head) = wrong;
    } else if (of_keys) {
      key_grids_at(*args_.k_scale, block, head)[below(problem_.sizes.head_dim)].step =
          from_float<Float16>(wrong);
    } else {
      value_grid_at(*args_.v_scale, block, offset, head)->step = from_float<Float16>(wrong);
    }
  }

  // Blocks of which no query sees a key become holes.
  void hide_unseen() {
    if (one_of({false, true})) return;
    const std::int64_t block_size = problem_.sizes.block_size,
                       columns = args_.block_tables.shape[1];
    for (std::int64_t seq = 0; seq < args_.seq_lens.shape[0]; ++seq) {
      const QueryRows rows = query_rows(args_, seq);
      if (rows.begin == rows.end || rows.seq_len == 0) continue;
      const VisibleKeys keys = visible_keys(args_, rows, 0, rows.end - rows.begin);
      for (std::int64_t first = 0; first < rows.seq_len; first += block_size) {
        const bool is_seen = first < keys.sink_tokens.end ||
                             (first < keys.window.end && first + block_size > keys.window.begin);
        if (!is_seen) tables_[static_cast<std::size_t>(seq * columns + first / block_size)] = -1;
      }
    }
  }

  void own_tables() {
    const IndexView& tables = args_.block_tables;
    tables_.clear();
    for (std::int64_t seq = 0; seq < tables.shape[0]; ++seq) {
      for (std::int64_t i = 0; i < tables.shape[1]; ++i) tables_.push_back(tables.at(seq, i));
    }
    args_.block_tables = contiguous_index_view(tables_.data(), {tables.shape[0], tables.shape[1]});
  }
  std::int64_t table_entry(std::int64_t seq, std::int64_t key) const {
    return args_.block_tables.at(seq, key / problem_.sizes.block_size);
  }
  double longest_row(const Array& rows, std::int64_t size) const {
    double longest = 0;
    for (std::int64_t row = 0; row < rows.size() / size; ++row) {
      double square = 0;
      for (std::int64_t i = 0; i < size; ++i) square += std::pow(rows.get(row * size + i), 2);
      if (std::isfinite(square)) longest = std::max(longest, square);
    }
    return std::sqrt(longest);
  }

  std::function<std::uint32_t()> next_;
  bool is_sealed_ = false;
  DType sealed_ = DType::int8;
  Problem problem_;
  std::unique_ptr<SealedProblem> sealed_problem_;
  PagedAttentionArgs args_;
  Array slopes_, sinks_;
  std::unique_ptr<bool[]> tree_;
  std::array<bool, 4> causal_{};  // of as many sequences as there are, at most
  std::vector<std::int64_t> tables_, positions_;
  std::string spoilt_;
};

}  // namespace quire::testing
