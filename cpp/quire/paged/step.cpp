#include "quire/paged/step.h"

#include <algorithm>
#include <map>

#include "quire/base/check.h"
#include "quire/ops/attention/validate.h"
#include "quire/paged/layer_attention.h"
#include "quire/paged/layer_rows.h"

namespace quire {

Step::Step(std::vector<std::shared_ptr<BlockTable>> tables,
           std::span<const std::int64_t> num_tokens)
    : tables_(std::move(tables)) {
  constexpr std::string_view function = "Step";
  if (tables_.empty()) {
    raise<ValueError>(place(function, "tables"), "got none, expected at least one");
  }
  if (num_tokens.size() != tables_.size()) {
    raise<ValueError>(place(function, "num_tokens"), "got ", num_tokens.size(),
                      " numbers, expected one for each of ", tables_.size(), " tables");
  }
  for (std::size_t i = 0; i < num_tokens.size(); ++i) {
    if (num_tokens[i] >= 0) continue;
    raise<ValueError>(place(function, "num_tokens"), "got ", num_tokens[i], " at index ", i,
                      ", expected >= 0");
  }
  require_different_tables();
  for (const auto& table : tables_) pointers_.push_back(table.get());
  {  // refuses freed tables, and those of two pools
    const HeldTables held(function, pointers_);
  }
  extend_all(num_tokens);
  try {
    packed_ = PackedTables(HeldTables(function, pointers_));
  } catch (...) {
    take_back();
    throw;
  }
}

void Step::require_different_tables() const {
  std::map<const BlockTable*, std::size_t> seen;
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    const auto [first, is_new] = seen.emplace(tables_[i].get(), i);
    if (is_new) continue;
    raise<ValueError>("Step: tables", "got the table at index ", first->second, " at index ", i,
                      " again, expected different tables");
  }
}

void Step::extend_all(std::span<const std::int64_t> num_tokens) {
  const BlockPool::Delivery delivery(*tables_[0]->pool());
  cu_seqlens_q_.push_back(0);
  try {
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      const std::int64_t n = num_tokens[i];
      const std::int64_t length = tables_[i]->num_tokens();
      const std::int64_t position = tables_[i]->next_position();
      old_lengths_.reserve(old_lengths_.size() + 1);
      const std::vector<std::int64_t> slots =
          tables_[i]->extend(Asked{"Step", "num_tokens", n, static_cast<std::int64_t>(i)});
      old_lengths_.push_back(length);
      slot_mapping_.insert(slot_mapping_.end(), slots.begin(), slots.end());
      for (std::int64_t j = 0; j < n; ++j) positions_.push_back(position + j);
      cu_seqlens_q_.push_back(static_cast<std::int32_t>(std::ssize(positions_)));
    }
    wide_cu_seqlens_q_.assign(cu_seqlens_q_.begin(), cu_seqlens_q_.end());
  } catch (...) {
    take_back();
    throw;
  }
}

HeldTables Step::hold(std::string_view function) const {
  HeldTables held(function, pointers_);
  if (PackedTables(held) == packed_) return held;
  raise<ValueError>(place(function, "tables"),
                    "got one that has changed since the step was made, expected all as they were");
}

void Step::write(const ArrayView& k, const std::optional<ArrayView>& v, std::int64_t layer,
                 const Execution& how) const {
  constexpr std::string_view function = "Step.write";
  const BlockPool::Delivery delivery(*tables_[0]->pool());
  const HeldTables held = hold(function);
  write_held(k, v, layer, how, function);
}

void Step::write_held(const ArrayView& k, const std::optional<ArrayView>& v, std::int64_t layer,
                      const Execution& how, std::string_view function) const {
  const BlockPool& pool = *tables_[0]->pool();
  const KvGeometry& geometry = pool.geometry();
  if (layer < 0 || layer >= geometry.num_layers) {
    raise<IndexError>(place(function, "layer"), "got ", layer, ", expected 0 to ",
                      geometry.num_layers - 1);
  }
  const auto check = [&](const char* name, const ArrayView& rows, std::int64_t head_dim) {
    if (rows.ndim == 3 && rows.shape[0] == num_tokens() && rows.shape[1] == geometry.num_kv_heads &&
        rows.shape[2] == head_dim) {
      return;
    }
    raise<ValueError>(place(function, name), "got shape ", shape_text(rows), ", expected [",
                      num_tokens(), ", ", geometry.num_kv_heads, ", ", head_dim, "]");
  };
  check_has_values(pool, v.has_value(), function);
  check("k", k, geometry.head_dim);
  if (v) check("v", *v, geometry.v_head_dim);
  const LayerRows rows{k, v};
  check_rows(pool, layer, rows, "", how, function);
  write_rows(pool, layer, rows, slot_mapping_, how, function);
}

void Step::attend(const AttentionQuery& query, const ArrayView& k,
                  const std::optional<ArrayView>& v, std::int64_t layer,
                  Implementation implementation, const Execution& how,
                  BlockMassResult* block_mass) {
  constexpr std::string_view function = "Step.attend";
  const BlockPool::Delivery delivery(*tables_[0]->pool());
  const HeldTables held = hold(function);
  PagedAttentionArgs call = checked_args(query, layer, function);
  AttentionPlan& plan = plan_of(call, how, function);
  write_held(k, v, layer, how, function);
  attend_layer(*tables_[0]->pool(), layer, call, packed_, block_mass, implementation, how, function,
               &plan);
}

void Step::attend(const AttentionQuery& query, std::int64_t layer, Implementation implementation,
                  const Execution& how, BlockMassResult* block_mass) {
  constexpr std::string_view function = "Step.attend";
  const BlockPool::Delivery delivery(*tables_[0]->pool());
  const HeldTables held = hold(function);
  PagedAttentionArgs call = checked_args(query, layer, function);
  attend_layer(*tables_[0]->pool(), layer, call, packed_, block_mass, implementation, how, function,
               &plan_of(call, how, function));
}

PagedAttentionArgs Step::checked_args(const AttentionQuery& query, std::int64_t layer,
                                      std::string_view function) const {
  PagedAttentionArgs call = layer_args(*tables_[0]->pool(), layer, query, function);
  packed_.describe(call);
  call.cu_seqlens_q =
      contiguous_index_view(wide_cu_seqlens_q_.data(), {std::ssize(wide_cu_seqlens_q_)});
  validate_arrays(call, function);
  return call;
}

// Indices are the step's own, so that they are right; but whether a query sees a hole depends on
// the window of the layer.
AttentionPlan& Step::plan_of(const PagedAttentionArgs& args, const Execution& how,
                             std::string_view function) {
  const AttentionChoice& kernels = how.kernels->attention(args.k_cache.dtype);
  const PlanKind kind = plan_kind(args, kernels);
  for (PlannedLayers& layers : planned_) {
    if (layers.kind == kind) return layers.plan;
  }
  validate_indices(args, function);
  AttentionPlan plan;
  plan_attention(args, kernels, plan);
  return planned_.emplace_back(kind, std::move(plan)).plan;
}

void Step::take_back() noexcept {
  for (std::size_t i = 0; i < old_lengths_.size(); ++i) {
    try {
      if (tables_[i]->num_tokens() > old_lengths_[i]) tables_[i]->truncate(old_lengths_[i]);
    } catch (const Error&) {
      continue;  // freed meanwhile: there is nothing to take back
    }
  }
  old_lengths_.clear();
}

}  // namespace quire
