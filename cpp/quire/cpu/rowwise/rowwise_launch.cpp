#include "quire/cpu/rowwise/rowwise_launch.h"

#include <initializer_list>
#include <numbers>
#include <optional>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/float_mode.h"
#include "quire/base/lent.h"
#include "quire/cpu/rowwise/deal_rows.h"

namespace quire {
namespace {

// What the thread that calls keeps from call to call.
struct RowRooms {
  AlignedBuffer weight;
  std::vector<std::int64_t> positions;
  std::vector<double> half_turns;
};

// What the sums of a residual go through, while the norm goes through another.
class SumsBuffer : public AlignedBuffer {};

std::int64_t length_of(const ArrayView& rows) { return rows.shape[rows.ndim - 1]; }

}  // namespace

void rms_norm(const RmsNormArgs& args, const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  check_rms_norm(args, function);
  const std::int64_t length = length_of(args.x);
  const Lent<RowRooms> rooms;
  float* const weight = rooms->weight.reserve(length);
  how.kernels->operators->rows.widen(args.weight.data, args.weight.dtype, length,
                                     static_cast<float>(args.weight_offset), weight);
  const ArrayView& residual = args.residual ? *args.residual : args.x;
  const ArrayView& sums = args.residual_out ? *args.residual_out : args.out;
  const ArrayView& gate = args.gate ? *args.gate : args.x;
  const RowAxes rows{&args.x, &residual, &sums, &gate, &args.out};
  const RowResult result(args.out, {&args.x, &residual, &gate});
  const RowResult<SumsBuffer> sum_result(sums, {&args.x, &residual, &gate});
  deal_rows(rows, length, how.num_threads, [&](std::int64_t row, std::int64_t count) {
    RmsNormTask task{};
    task.x = rows.at(args.x, row);
    task.x_stride = rows.step(args.x);
    task.residual = args.residual ? rows.at(residual, row) : nullptr;
    task.residual_stride = rows.step(residual);
    task.gate = args.gate ? rows.at(gate, row) : nullptr;
    task.gate_stride = rows.step(gate);
    task.weight = weight;
    task.eps = args.eps;
    task.dtype = args.x.dtype;
    task.out_dtype = args.out.dtype;
    task.num_rows = count;
    task.length = length;
    const auto norm_into = [&](std::byte* out, std::int64_t step) {
      task.out = out;
      task.out_stride = step;
      how.kernels->operators->rows.rms_norm(task);
    };
    const auto add_into = [&](std::byte* to, std::int64_t step) {
      task.sums = to;
      task.sums_stride = step;
      result.write(rows.at(args.out, row), rows.step(args.out), count, norm_into);
    };
    if (args.residual) {
      sum_result.write(rows.at(sums, row), rows.step(sums), count, add_into);
    } else {
      add_into(nullptr, 0);
    }
  });
}

void swiglu(const SwigluArgs& args, const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  check_swiglu(args, function);
  const std::int64_t length = length_of(args.gate);
  const RowAxes rows{&args.gate, &args.up, &args.out};
  const RowResult result(args.out, {&args.gate, &args.up});
  deal_rows(rows, length, how.num_threads, [&](std::int64_t row, std::int64_t count) {
    SwigluTask task{};
    task.gate = rows.at(args.gate, row);
    task.gate_stride = rows.step(args.gate);
    task.up = rows.at(args.up, row);
    task.up_stride = rows.step(args.up);
    task.dtype = args.gate.dtype;
    task.activation = args.activation;
    task.num_rows = count;
    task.length = length;
    result.write(rows.at(args.out, row), rows.step(args.out), count,
                 [&](std::byte* out, std::int64_t step) {
                   task.out = out;
                   task.out_stride = step;
                   how.kernels->operators->rows.swiglu(task);
                 });
  });
}

void rope(const RopeArgs& args, const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  check_rope(args, function);
  const Lent<RowRooms> rooms;
  rooms->positions.clear();
  for (std::int64_t token = 0; token < args.x.shape[0]; ++token) {
    rooms->positions.push_back(args.positions.at(token));
  }
  rooms->half_turns = frequencies_of(args);
  for (double& turns : rooms->half_turns) turns /= std::numbers::pi;

  RopeTask whole{};
  whole.x_stride = args.x.strides[0];
  whole.x_head_stride = args.x.strides[1];
  whole.out_stride = args.out.strides[0];
  whole.out_head_stride = args.out.strides[1];
  whole.dtype = args.x.dtype;
  whole.num_heads = args.x.shape[1];
  whole.head_dim = args.x.shape[2];
  whole.num_pairs = args.num_rotated() / 2;
  whole.interleaved = args.interleaved;
  whole.half_turns = rooms->half_turns.data();
  whole.attention_factor = static_cast<float>(args.attention_factor);
  const std::int64_t numbers = whole.num_heads * whole.head_dim;
  const auto tokens_of = [numbers](const ArrayView& array) {  // each a row, with all of its heads
    ArrayView view = array;
    view.ndim = 2;
    view.shape[1] = numbers;
    view.strides[1] = static_cast<std::int64_t>(size_of(array.dtype));
    return view;
  };
  const ArrayView tokens = tokens_of(args.x);
  const std::int64_t head_bytes = whole.head_dim * static_cast<std::int64_t>(size_of(whole.dtype));
  std::optional<RowResult<>> dense;  // where heads lie one after the other
  if (whole.out_head_stride == head_bytes)
    dense.emplace(tokens_of(args.out), std::initializer_list<const ArrayView*>{&args.x});
  const std::int64_t* const positions = rooms->positions.data();
  deal_rows(RowAxes{&tokens}, std::max<std::int64_t>(1, numbers), how.num_threads,
            [&](std::int64_t token, std::int64_t count) {
              RopeTask task = whole;
              task.x = args.x.at(token);
              task.num_tokens = count;
              task.positions = positions + token;
              const auto turn_into = [&](std::byte* out, std::int64_t step) {
                task.out = out;
                task.out_stride = step;
                how.kernels->operators->rows.rope(task);
              };
              std::byte* const out = args.out.at(token);
              if (dense) return dense->write(out, whole.out_stride, count, turn_into);
              turn_into(out, whole.out_stride);
            });
}

}  // namespace quire
