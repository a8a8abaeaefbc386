// The sums of a unit's rows on their way through the keys of a part: those of the cell that the
// keys are in, and, of a part of several cells, those of the cells before.
#pragma once

#include "quire/cpu/attention/tiles/tile_rooms.h"
#include "quire/cpu/attention/tiles/tile_states.h"

namespace quire {

template <class S>
class TileSums {
 public:
  using Rooms = TileRooms<S>;
  using States = TileStates<S>;
  static constexpr int kRows = TileGrid::kRows;

  // by_tiles: whether rows are loaded 16 at a time, those past the last too.
  TileSums(const AttentionTask& task, const AttentionUnit& unit, const Rooms& rooms,
           const StateView& state, bool by_tiles)
      : unit_(unit),
        rooms_(rooms),
        state_(States::of(state)),
        count_(unit.num_tokens * task.group),
        loaded_(by_tiles ? Rooms::row_tiles(count_) * kRows : count_),
        stride_(States::padded(task.v_head_dim)) {
    const std::int64_t rows = unit.head_rows * (unit.kv_head_end - unit.kv_head_begin);
    float* const sum = state.carried + rows;
    before_ = {state.carried, sum, 1, sum + rows};
    memory_ = sum + rows + rows * stride_;
  }

  // Of a piece that goes on from others all is as they left it.
  void begin(const AttentionPart& part) {
    const bool goes_on = part.keys_before > 0;
    if (goes_on) {
      cell_ = static_cast<std::int64_t>(memory_[0]);
      has_before_ = memory_[1] != 0;
    }
    for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
      clear(head);
      if (goes_on) for_rows([&](std::int64_t row) { load(head, row); });
    }
  }

  // Before a tile of keys from `first` on, of all heads in turn.
  void enter(std::int64_t first, std::int64_t head) {
    if (head == unit_.kv_head_begin) {
      const std::int64_t cell = TileGrid::cell_of(first);
      is_done_ = cell_ >= 0 && cell != cell_;
      has_before_now_ = has_before_;
      has_before_ = has_before_ || is_done_;
      cell_ = cell;
    }
    if (!is_done_) return;
    if (!has_before_now_) States::clear(rows_of(before_, head, 0), count_, stride_);
    take_in(head);
    clear(head);
  }

  // After the keys of a part, or of a piece.
  void end(const AttentionPart& part) {
    for (std::int64_t head = unit_.kv_head_begin; head < unit_.kv_head_end; ++head) {
      if (has_before_ && !part.goes_on) {
        take_in(head);
        for_rows([&](std::int64_t row) { store(head, row, rows_of(before_, head, row)); });
      } else {
        for_rows([&](std::int64_t row) { store(head, row, own(head, row)); });
      }
    }
    memory_[0] = static_cast<float>(cell_);
    memory_[1] = has_before_ ? 1.0f : 0.0f;
  }

  // Of rows [row, row + kRows), a multiple of kRows.
  TileState state(std::int64_t head, std::int64_t row) const { return own(head, row); }
  float* values(std::int64_t head, std::int64_t row) const {
    return rooms_.sums_of_values(head, row);
  }

  // Where maxima of rows [row, row + rows) have risen.
  void shrink(std::int64_t head, std::int64_t row, int rows, const float* by) const {
    for (int i = 0; i < rows; ++i) {
      if (by[i] == 1) continue;
      float* const to = values(head, row) + i * stride_;
      for (std::int64_t d = 0; d < stride_; d += S::kWidth) {
        S::store(to + d, S::mul(S::load(to + d), S::set1(by[i])));
      }
    }
  }

 private:
  void clear(std::int64_t head) const {
    for (std::int64_t row = 0; row < loaded_; row += kRows) {
      const std::int64_t rows = loaded_ - row < kRows ? loaded_ - row : kRows;
      States::clear(own(head, row), rows, stride_);
    }
  }

  // Any rows from one on, of 16 that lie together.
  TileState own(std::int64_t head, std::int64_t row) const {
    const std::int64_t first = row / kRows * kRows, i = row % kRows;
    return {rooms_.maximum(head, first) + i, rooms_.sum(head, first) + i, 1,
            values(head, first) + i * stride_};
  }
  TileState rows_of(const TileState& state, std::int64_t head, std::int64_t row) const {
    const std::int64_t at = (head - unit_.kv_head_begin) * unit_.head_rows + row;
    return {state.maximum + at, state.sum + at * state.sum_stride, state.sum_stride,
            state.values + at * stride_};
  }
  template <class Visit>
  void for_rows(Visit visit) const {
    for (std::int64_t row = 0; row < count_; ++row) visit(row);
  }

  // The cell's sums into those of the cells before.
  void take_in(std::int64_t head) const {
    for (std::int64_t row = 0; row < count_; row += kRows) {
      const std::int64_t rows = count_ - row < kRows ? count_ - row : kRows;
      States::add(own(head, row), rows_of(before_, head, row), rows, stride_);
    }
  }

  // Between the order of columns that tiles have and the natural one of states.
  void store(std::int64_t head, std::int64_t row, const TileState& from) const {
    const TileState to = rows_of(state_, head, row);
    *to.maximum = *from.maximum;
    *to.sum = *from.sum;
    for (std::int64_t d = 0; d < stride_; d += 32) {
      TileWords<S>::to_natural(from.values + d, to.values + d);
    }
  }
  void load(std::int64_t head, std::int64_t row) const {
    const TileState from = rows_of(state_, head, row), to = own(head, row);
    *to.maximum = *from.maximum;
    *to.sum = *from.sum;
    for (std::int64_t d = 0; d < stride_; d += 32) {
      TileWords<S>::from_natural(from.values + d, to.values + d);
    }
  }

  const AttentionUnit& unit_;
  const Rooms& rooms_;
  const TileState state_;
  TileState before_;
  float* memory_;  // of what a piece leaves to the next
  const std::int64_t count_, loaded_, stride_;
  std::int64_t cell_ = -1;  // that the sums are of; -1: of none yet
  bool is_done_ = false;    // with a cell, as its next one begins
  bool has_before_ = false, has_before_now_ = false;
};

}  // namespace quire
