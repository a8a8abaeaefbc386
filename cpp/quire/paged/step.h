// A step: some new tokens of many sequences on their way through all layers of a model.
//
//   Step step(tables, counts);                    // room for the new tokens in every table
//   const Step::TakeBack guard(step);             // an exception takes the tables back
//   for (layer = 0; layer < num_layers; ++layer)
//     step.attend({.q = q, .out = out}, k, v, layer);   // writes the layer's rows, then attends
//
// What the layers have in common is found once: the tables are packed and checked when the step is
// made, and how the work is cut when the first layer asks for it.
#pragma once

#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/cpu/plan/attention_plan.h"
#include "quire/paged/attend.h"
#include "quire/paged/packed_tables.h"

namespace quire {

class Step {
 public:
  // Room for num_tokens[i] >= 0 more tokens in tables[i], which are different tables of one pool,
  // in use. Throws ValueError where they are not, or for a count below 0, OutOfBlocks where the
  // pool has too little room for all; no table has changed then.
  Step(std::vector<std::shared_ptr<BlockTable>> tables, std::span<const std::int64_t> num_tokens);
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  const std::vector<std::shared_ptr<BlockTable>>& tables() const { return tables_; }
  std::int64_t num_tokens() const { return std::ssize(positions_); }  // T: of all tables

  // Where the new tokens stand, [T]; the rows of each table, [B + 1], from 0 to T; and the slots of
  // the new tokens, [T], as BlockTable::extend gives them.
  std::span<const std::int64_t> positions() const { return positions_; }
  std::span<const std::int32_t> cu_seqlens_q() const { return cu_seqlens_q_; }
  std::span<const std::int64_t> slot_mapping() const { return slot_mapping_; }

  // Writes a layer's rows of the new tokens: k [T, Hkv, D], v [T, Hkv, Dv], or none where the
  // pool's values are the beginnings of its keys. Throws, with nothing written, ValueError or
  // TypeError as append does, IndexError for an unknown layer, and ValueError where somebody has
  // changed a table since the step was made.
  void write(const ArrayView& k, const std::optional<ArrayView>& v, std::int64_t layer = 0,
             const Execution& how = default_execution()) const;

  // Writes as above, then attends with the new tokens as queries: query.q is [T, Hq, D], and
  // query.cu_seqlens_q is not looked at, as the step knows it. Throws as write and quire::attend
  // do. For one thread at a time.
  void attend(const AttentionQuery& query, const ArrayView& k, const std::optional<ArrayView>& v,
              std::int64_t layer = 0, Implementation implementation = Implementation::fused,
              const Execution& how = default_execution(), BlockMassResult* block_mass = nullptr);
  // Attention alone, over rows that have been written.
  void attend(const AttentionQuery& query, std::int64_t layer = 0,
              Implementation implementation = Implementation::fused,
              const Execution& how = default_execution(), BlockMassResult* block_mass = nullptr);

  // Takes every table back to the length that it had, but for those that were freed or shortened
  // since. The step is over then.
  void take_back() noexcept;

  // Takes a step back where it is left by an exception.
  class TakeBack {
   public:
    explicit TakeBack(Step& step) : step_(step) {}
    ~TakeBack() {
      if (std::uncaught_exceptions() > exceptions_) step_.take_back();
    }
    TakeBack(const TakeBack&) = delete;
    TakeBack& operator=(const TakeBack&) = delete;

   private:
    Step& step_;
    const int exceptions_ = std::uncaught_exceptions();
  };

 private:
  // Where the work of layers of one kind is cut and dealt: layers with a window apart from others.
  struct PlannedLayers {
    PlanKind kind;
    AttentionPlan plan;
  };

  void require_different_tables() const;
  void extend_all(std::span<const std::int64_t> num_tokens);
  // The tables, where they are still what the step made of them; throws ValueError otherwise.
  HeldTables hold(std::string_view function) const;
  PagedAttentionArgs checked_args(const AttentionQuery& query, std::int64_t layer,
                                  std::string_view function) const;
  void write_held(const ArrayView& k, const std::optional<ArrayView>& v, std::int64_t layer,
                  const Execution& how, std::string_view function) const;
  AttentionPlan& plan_of(const PagedAttentionArgs& args, const Execution& how,
                         std::string_view function);

  const std::vector<std::shared_ptr<BlockTable>> tables_;
  std::vector<const BlockTable*> pointers_;  // to the same tables
  std::vector<std::int64_t> old_lengths_;    // of those that have been extended
  std::vector<std::int64_t> positions_;
  std::vector<std::int32_t> cu_seqlens_q_;
  std::vector<std::int64_t> wide_cu_seqlens_q_;  // the same, as kernels take it
  std::vector<std::int64_t> slot_mapping_;
  PackedTables packed_;
  std::list<PlannedLayers> planned_;
};

}  // namespace quire
