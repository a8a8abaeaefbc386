#include "quire/cpu/recurrent/recurrent_launch.h"

#include <cmath>
#include <vector>

#include "quire/base/aligned_buffer.h"
#include "quire/base/float_mode.h"
#include "quire/base/lent.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/float_at.h"

namespace quire {
namespace {

// What pays for a thread, some 20 us: in numbers of x times taps, and of states times tokens.
constexpr std::int64_t kConvWorkOfOne = 1 << 16;
constexpr std::int64_t kDeltaWorkOfOne = 1 << 18;
constexpr std::int64_t kGatesAtOnce = 1 << 11;

// What the thread that calls keeps from call to call: of each token and head.
struct Gates {
  std::vector<float> decays, betas;
};

// Parts of one sequence each, which are dealt. Sequences without tokens have none.
struct SequencePart {
  std::int64_t sequence, first;  // of its channels, or of columns of all of its heads
};

std::vector<SequencePart> parts_of(const std::vector<std::int64_t>& begins, std::int64_t whole,
                                   std::int64_t at_once) {
  std::vector<SequencePart> parts;
  for (std::size_t i = 0; i + 1 < begins.size(); ++i) {
    if (begins[i] == begins[i + 1]) continue;
    for (std::int64_t first = 0; first < whole; first += at_once) {
      parts.push_back({static_cast<std::int64_t>(i), first});
    }
  }
  return parts;
}

void fill_gates(const GatedDeltaRuleArgs& args, int num_threads, Gates& gates) {
  const std::int64_t heads = args.v.shape[1];
  const std::int64_t count = args.q.shape[0] * heads;
  gates.decays.resize(static_cast<std::size_t>(count));
  gates.betas.resize(static_cast<std::size_t>(count));
  const std::int64_t items = (count + kGatesAtOnce - 1) / kGatesAtOnce;
  deal(crew_for(count, kGatesAtOnce, items, num_threads), items, [&](std::int64_t item, int) {
    const std::int64_t end = std::min(count, (item + 1) * kGatesAtOnce);
    for (std::int64_t i = item * kGatesAtOnce; i < end; ++i) {
      const double g = float_at(args.g.at(i / heads), args.g.dtype, i % heads);
      const double beta = float_at(args.beta.at(i / heads), args.beta.dtype, i % heads);
      gates.decays[static_cast<std::size_t>(i)] = static_cast<float>(std::exp(g));
      gates.betas[static_cast<std::size_t>(i)] = static_cast<float>(beta);
    }
  });
}

}  // namespace

void causal_conv1d(const CausalConv1dArgs& args, const Execution& how, std::string_view function) {
  const DefaultFloatMode mode;
  const TokenSpans spans = check_causal_conv1d(args, function);
  const std::vector<std::int64_t>& begins = spans.begins;
  const std::int64_t channels = args.x.shape[1];
  const auto parts = parts_of(begins, channels, kChannelsAtOnce);
  const auto items = static_cast<std::int64_t>(parts.size());
  const std::int64_t work = args.x.shape[0] * channels * args.weight.shape[1];
  deal(crew_for(work, kConvWorkOfOne, items, how.num_threads), items, [&](std::int64_t item, int) {
    const auto [sequence, first] = parts[static_cast<std::size_t>(item)];
    const std::int64_t begin = begins[static_cast<std::size_t>(sequence)];
    const auto item_bytes = static_cast<std::int64_t>(size_of(args.x.dtype));
    ConvTask task{};
    task.x = args.x.at(begin) + first * item_bytes;
    task.x_stride = args.x.strides[0];
    task.dtype = args.x.dtype;
    task.weight = args.weight.at(first);
    task.weight_stride = args.weight.strides[0];
    task.weight_dtype = args.weight.dtype;
    if (args.bias) {
      task.bias_dtype = args.bias->dtype;
      task.bias = args.bias->data + first * static_cast<std::int64_t>(size_of(task.bias_dtype));
    }
    task.state = args.state.at(spans.states[static_cast<std::size_t>(sequence)], first);
    task.state_stride = args.state.strides[1];
    task.state_dtype = args.state.dtype;
    task.out = args.out.at(begin) + first * item_bytes;
    task.out_stride = args.out.strides[0];
    task.num_tokens = begins[static_cast<std::size_t>(sequence) + 1] - begin;
    task.num_channels = std::min(kChannelsAtOnce, channels - first);
    task.taps = args.weight.shape[1];
    task.silu = args.silu;
    how.kernels->operators->recurrent.causal_conv1d(task);
  });
}

void gated_delta_rule(const GatedDeltaRuleArgs& args, const Execution& how,
                      std::string_view function) {
  const DefaultFloatMode mode;
  const TokenSpans spans = check_gated_delta_rule(args, function);
  const std::vector<std::int64_t>& begins = spans.begins;
  const RecurrentKernels& kernels = how.kernels->operators->recurrent;
  const Lent<Gates> gates;
  fill_gates(args, how.num_threads, *gates);
  const std::int64_t heads = args.v.shape[1], keys = args.q.shape[2], values = args.v.shape[2];
  const std::int64_t of_key_head = heads / args.q.shape[1];
  const std::int64_t parts_of_head = (values + kernels.delta_columns - 1) / kernels.delta_columns;
  const auto parts = parts_of(begins, heads * parts_of_head, 1);
  const auto items = static_cast<std::int64_t>(parts.size());
  const std::int64_t work = args.q.shape[0] * heads * keys * values;
  const float* const decays = gates->decays.data();
  const float* const betas = gates->betas.data();
  const auto scale = static_cast<float>(args.scale_or_default());
  deal(crew_for(work, kDeltaWorkOfOne, items, how.num_threads), items, [&](std::int64_t item, int) {
    const auto [sequence, part] = parts[static_cast<std::size_t>(item)];
    const std::int64_t begin = begins[static_cast<std::size_t>(sequence)];
    const std::int64_t slot = spans.states[static_cast<std::size_t>(sequence)];
    const std::int64_t head = part / parts_of_head;
    const std::int64_t first = part % parts_of_head * kernels.delta_columns;
    const auto bytes_before = [first](DType dtype) {
      return first * static_cast<std::int64_t>(size_of(dtype));
    };
    const Lent<AlignedBuffer> scratch;
    DeltaTask task{};
    task.q = args.q.at(begin, head / of_key_head);
    task.k = args.k.at(begin, head / of_key_head);
    task.v = args.v.at(begin, head) + bytes_before(args.v.dtype);
    task.q_stride = args.q.strides[0];
    task.k_stride = args.k.strides[0];
    task.v_stride = args.v.strides[0];
    task.q_dtype = args.q.dtype;
    task.k_dtype = args.k.dtype;
    task.v_dtype = args.v.dtype;
    task.decay = decays + begin * heads + head;
    task.beta = betas + begin * heads + head;
    task.num_heads = heads;
    task.scale = scale;
    task.state = reinterpret_cast<float*>(args.state.at(slot, head)) + first;
    task.state_stride = args.state.strides[2];
    task.out = args.out.at(begin, head) + bytes_before(args.out.dtype);
    task.out_stride = args.out.strides[0];
    task.num_tokens = begins[static_cast<std::size_t>(sequence) + 1] - begin;
    task.num_keys = keys;
    task.num_columns = std::min(kernels.delta_columns, values - first);
    task.scratch = scratch->reserve(kernels.delta_scratch(keys));
    kernels.gated_delta_rule(task);
  });
}

}  // namespace quire
