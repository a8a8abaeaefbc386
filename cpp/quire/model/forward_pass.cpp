#include "quire/model/forward_pass.h"

#include <cstring>

#include "quire/cpu/gemm/linear_launch.h"
#include "quire/cpu/recurrent/recurrent_launch.h"
#include "quire/cpu/rowwise/rowwise_launch.h"
#include "quire/ops/linear/take_rows.h"

namespace quire {
namespace {

constexpr std::string_view kForward = "forward";

ArrayView floats_of(const std::vector<float>& numbers) {
  return view_of(numbers, {std::ssize(numbers)});
}

// [T, N] of a contiguous array [T, ...].
ArrayView flat(const ArrayView& array) {
  std::int64_t numbers = 1;
  for (int axis = 1; axis < array.ndim; ++axis) numbers *= array.shape[axis];
  return contiguous_view(array.data, array.dtype, {array.shape[0], numbers});
}

}  // namespace

ForwardPass::ForwardPass(const ForwardArgs& args, const Execution& how, DType rows,
                         Scratch& scratch)
    : args_(args), how_(how), rows_(rows), scratch_(scratch) {}

ArrayView ForwardPass::embed(const Embedding& embedding, float scale) {
  const std::int64_t size = embedding.hidden_size;
  const ArrayView h = scratch_.lasting(num_tokens(), size);
  if (embedding.tied != nullptr) {
    take_rows(*embedding.tied, args_.token_ids, h, kForward);
  } else {
    take_rows(embedding.rows, args_.token_ids, h, kForward);
  }
  auto* const numbers = reinterpret_cast<float*>(h.data);
  for (std::int64_t i = 0; scale != 1 && i < num_tokens() * size; ++i) numbers[i] *= scale;
  return h;
}

ArrayView ForwardPass::norm(const ArrayView& h, const std::optional<ArrayView>& delta,
                            const Norm& norm) {
  RmsNormArgs call;
  call.x = h;
  call.weight = floats_of(norm.weight);
  call.eps = norm.eps;
  call.residual = delta;
  if (delta) call.residual_out = h;
  call.out = array(rows_, {h.shape[0], h.shape[1]});
  rms_norm(call, how_, kForward);
  return call.out;
}

void ForwardPass::norm_in_place(const ArrayView& x, const Norm& norm) {
  RmsNormArgs call;
  call.x = x;
  call.weight = floats_of(norm.weight);
  call.eps = norm.eps;
  call.out = x;
  rms_norm(call, how_, kForward);
}

ArrayView ForwardPass::gated_norm(const ArrayView& x, const ArrayView& gate, const Norm& norm) {
  RmsNormArgs call;
  call.x = x;
  call.weight = floats_of(norm.weight);
  call.eps = norm.eps;
  call.gate = gate;
  call.out = array_like(x, rows_);
  rms_norm(call, how_, kForward);
  return flat(call.out);
}

void ForwardPass::linear_into(const ArrayView& x, const Linear& weight, const ArrayView& out) {
  std::int64_t first = 0;
  for (const std::shared_ptr<const Weight>& part : weight.weights) {
    const std::int64_t count = part->num_rows();
    LinearArgs call;
    call.x = x;
    call.weight = part.get();
    if (!weight.bias.empty()) {
      call.bias = floats_of(weight.bias);
      call.bias->data += first * static_cast<std::int64_t>(sizeof(float));
      call.bias->shape[0] = count;
    }
    call.out = columns(out, first, count);
    quire::linear(call, how_, kForward);
    first += count;
  }
}

ArrayView ForwardPass::linear(const ArrayView& x, const Linear& weight, DType dtype) {
  const ArrayView out = array(dtype, {x.shape[0], weight.num_rows()});
  linear_into(x, weight, out);
  return out;
}

ArrayView ForwardPass::heads(const ArrayView& x, std::int64_t first, std::int64_t count,
                             std::int64_t size, std::int64_t step) {
  const auto item = static_cast<std::int64_t>(size_of(x.dtype));
  ArrayView view = x;
  view.data += first * item;
  view.ndim = 3;
  view.shape = {x.shape[0], count, size};
  view.strides = {x.strides[0], (step == 0 ? size : step) * item, item};
  return view;
}

ArrayView ForwardPass::columns(const ArrayView& x, std::int64_t first, std::int64_t count) {
  ArrayView view = x;
  view.data += first * static_cast<std::int64_t>(size_of(x.dtype));
  view.shape[1] = count;
  return view;
}

void ForwardPass::rotate(const ArrayView& x, const Rotary& rotary) {
  const std::span<const std::int64_t> positions = args_.step.positions();
  RopeArgs call;
  call.x = x;
  call.positions = contiguous_index_view(positions.data(), {std::ssize(positions)});
  call.rotary_dim = rotary.rotary_dim();
  call.interleaved = rotary.interleaved;
  call.inv_freq = floats_of(rotary.inv_freq);
  call.attention_factor = rotary.attention_factor;
  call.out = x;
  rope(call, how_, kForward);
}

ArrayView ForwardPass::attend(const Attention& attention) {
  const std::int64_t heads = attention.q.shape[1], size = attention.v.shape[2];
  const ArrayView out = array(rows_, {num_tokens(), heads, size});
  AttentionQuery query;
  query.q = attention.q;
  query.out = out;
  query.scale = attention.scale;
  query.sliding_window = attention.sliding_window;
  args_.step.attend(query, attention.k, attention.v, attention.layer, Implementation::fused, how_);
  return flat(out);
}

ArrayView ForwardPass::gated(const ArrayView& gate, const ArrayView& up, Activation activation) {
  SwigluArgs call;
  call.gate = gate;
  call.up = up;
  call.activation = activation;
  call.out = array_like(gate, gate.dtype);
  swiglu(call, how_, kForward);
  return flat(call.out);
}

ArrayView ForwardPass::convolve(const ArrayView& x, const ArrayView& weight, std::int64_t layer) {
  const std::span<const std::int32_t> lengths = args_.step.cu_seqlens_q();
  CausalConv1dArgs call;
  call.x = x;
  call.weight = weight;
  call.state = states().convolution(layer);
  call.state_indices =
      contiguous_index_view(args_.state_slots.data(), {std::ssize(args_.state_slots)});
  call.cu_seqlens = contiguous_index_view(lengths.data(), {std::ssize(lengths)});
  call.out = array(x.dtype, {x.shape[0], x.shape[1]});
  causal_conv1d(call, how_, kForward);
  return call.out;
}

ArrayView ForwardPass::delta_rule(const ArrayView& q, const ArrayView& k, const ArrayView& v,
                                  const ArrayView& g, const ArrayView& beta, std::int64_t layer) {
  const std::span<const std::int32_t> lengths = args_.step.cu_seqlens_q();
  GatedDeltaRuleArgs call;
  call.q = q;
  call.k = k;
  call.v = v;
  call.g = g;
  call.beta = beta;
  call.state = states().matrices(layer);
  call.state_indices =
      contiguous_index_view(args_.state_slots.data(), {std::ssize(args_.state_slots)});
  call.cu_seqlens = contiguous_index_view(lengths.data(), {std::ssize(lengths)});
  call.out = array(q.dtype, {v.shape[0], v.shape[1], v.shape[2]});
  gated_delta_rule(call, how_, kForward);
  return call.out;
}

void ForwardPass::logits(const ArrayView& h, const std::optional<ArrayView>& delta,
                         const Norm& norm, const Linear& output) {
  const auto count = std::ssize(args_.logit_rows);
  if (count == 0) return;
  const auto some_of = [&](const ArrayView& rows) {
    const ArrayView some = array(DType::float32, {count, rows.shape[1]});
    const auto row_bytes = static_cast<std::size_t>(rows.shape[1]) * sizeof(float);
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(some.at(i), rows.at(args_.logit_rows[static_cast<std::size_t>(i)]), row_bytes);
    }
    return some;
  };
  const std::optional<ArrayView> some_delta = delta ? std::optional(some_of(*delta)) : std::nullopt;
  linear_into(this->norm(some_of(h), some_delta, norm), output, args_.logits);
}

}  // namespace quire
