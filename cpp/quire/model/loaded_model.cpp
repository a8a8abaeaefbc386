#include "quire/model/loaded_model.h"

#include <algorithm>

#include "quire/base/lent.h"
#include "quire/model/forward_pass.h"
#include "quire/model/model_weights.h"
#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

// bfloat16 rows lose nothing beside weights of bfloat16 or fewer bits, and tiles multiply them;
// what most of the weights are decides.
DType rows_for(const MemoryReport& report) {
  std::int64_t narrow = 0, wide = 0;
  for (const auto& [formats, line] : report.lines) {
    const bool is_wide = formats.second == "float32" || formats.second == "float16";
    (is_wide ? wide : narrow) += line.numbers;
  }
  return narrow > wide ? DType::bfloat16 : DType::float32;
}

}  // namespace

KvShape LoadedModel::kv_shape() const {
  return {shape_.num_layers, shape_.num_kv_heads, shape_.head_dim, shape_.head_dim};
}

std::shared_ptr<RecurrentStates> LoadedModel::make_states(std::int64_t num_slots) const {
  const std::optional<RecurrentShape> shape = recurrent_shape();
  return shape ? std::make_shared<RecurrentStates>(*shape, num_slots) : nullptr;
}

void LoadedModel::check(const ForwardArgs& args) const {
  const ArgumentChecker check("forward");
  const std::int64_t tokens = args.step.num_tokens();
  const auto sequences = std::ssize(args.step.tables());
  const KvGeometry& pool = args.step.tables()[0]->pool()->geometry();
  const KvShape kv = kv_shape();
  if (pool.num_layers != kv.num_layers || pool.num_kv_heads != kv.num_kv_heads ||
      pool.head_dim != kv.head_dim || pool.v_head_dim != kv.value_dim) {
    check.fail<ValueError>("step", "got a pool of ", pool.num_layers, " layers, ",
                           pool.num_kv_heads, " KV heads, and heads of ", pool.head_dim, " and ",
                           pool.v_head_dim, ", expected ", kv.num_layers, " layers, ",
                           kv.num_kv_heads, " KV heads, and heads of ", kv.head_dim, " and ",
                           kv.value_dim);
  }
  for (const std::int64_t position : args.step.positions()) {
    if (position < max_positions()) continue;
    check.fail<ValueError>("step", "got a token at position ", position, ", expected at most ",
                           max_positions() - 1);
  }
  if (std::ssize(args.token_ids) != tokens) {
    check.fail<ValueError>("token_ids", "got ", args.token_ids.size(), " ids, expected ", tokens,
                           ", the step's tokens");
  }
  for (std::size_t i = 0; i < args.token_ids.size(); ++i) {
    if (args.token_ids[i] >= 0 && args.token_ids[i] < vocab_size()) continue;
    check.fail<IndexError>("token_ids", "got ", args.token_ids[i], " at ", i, ", expected 0 to ",
                           vocab_size() - 1);
  }
  std::int64_t least = 0;
  for (std::size_t i = 0; i < args.logit_rows.size(); ++i) {
    const std::int64_t row = args.logit_rows[i];
    if (row < least || row >= tokens) {
      check.fail<IndexError>("logit_rows", "got ", row, " at ", i, ", expected ", least, " to ",
                             tokens - 1, ", rising");
    }
    least = row + 1;
  }
  if (!args.logit_rows.empty()) {
    check.array("logits", args.logits, {std::ssize(args.logit_rows), vocab_size()},
                "logit_rows, vocab_size");
    if (args.logits.dtype != DType::float32) {
      check.fail<TypeError>("logits", "got ", name_of(args.logits.dtype), ", expected float32");
    }
    check.written("logits", args.logits);
  }
  const std::optional<RecurrentShape> recurrent = recurrent_shape();
  if (!recurrent) return;
  if (args.states == nullptr || args.states->shape() != *recurrent) {
    check.fail<ValueError>("states", "got ", args.states == nullptr ? "none" : "another model's",
                           ", expected those of make_states");
  }
  if (std::ssize(args.state_slots) != sequences) {
    check.fail<ValueError>("state_slots", "got ", args.state_slots.size(), " slots, expected ",
                           sequences, ", one of each sequence");
  }
  for (std::size_t i = 0; i < args.state_slots.size(); ++i) {
    const std::int64_t slot = args.state_slots[i];
    if (slot < 0 || slot >= args.states->num_slots()) {
      check.fail<IndexError>("state_slots", "got ", slot, " at ", i, ", expected 0 to ",
                             args.states->num_slots() - 1);
    }
    if (std::find(args.state_slots.begin(), args.state_slots.begin() + i, slot) !=
        args.state_slots.begin() + i) {
      check.fail<ValueError>("state_slots", "got ", slot, " at ", i,
                             " again, expected different ones");
    }
  }
}

void LoadedModel::forward(const ForwardArgs& args, const Execution& how) const {
  check(args);
  if (args.step.num_tokens() == 0) return;
  const Lent<Scratch> scratch;
  ForwardPass pass(args, how, rows_, *scratch);
  run(pass);
  scratch->keep_some();
}

std::shared_ptr<const LoadedModel> finished(std::shared_ptr<LoadedModel> model,
                                            const ModelWeights& weights,
                                            std::vector<std::int64_t> stop_token_ids) {
  model->path_ = weights.path();
  model->report_ = weights.report();
  model->rows_ = rows_for(model->report_);
  model->stop_token_ids_ = std::move(stop_token_ids);
  return model;
}

}  // namespace quire
