// One call of attention from Python: options as C++ knows them, outputs, and what is returned.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "attention_options.h"
#include "numpy_view.h"
#include "quire/cpu/operations.h"
#include "quire/ops/attention/block_mass_result.h"
#include "quire/ops/attention/paged_attention.h"
#include "result_array.h"

namespace quire::python {

// The constructor checks the types of q and of the options, but of scales, which depend
// on the caches. Shapes and values are checked by quire::validate.
class AttentionCall {
 public:
  AttentionCall(const char* function, pybind11::handle q, const AttentionOptions& options);

  const AttentionQuery& query() const { return query_; }
  Layout layout() const { return layout_; }
  const std::optional<IndexView>& key_positions() const { return positions_; }
  Implementation implementation() const { return implementation_; }
  const Execution& how() const { return how_; }

  // A cache that was given, and then the scales beside both. Of tables: those of their pool, whose
  // dtype cache_dtype may say again.
  FloatArray cache(const char* name, pybind11::handle object) const;
  void take_scales(DType k_cache, DType v_cache);
  void take_pool(DType dtype);
  // Throws ValueError for a layout or positions, which tables have by themselves.
  void require_options_of_tables() const;
  // Makes the outputs that were not given, for values of this size.
  void make_outputs(std::int64_t v_head_dim);
  // Where block mass goes; null where it is not wanted.
  BlockMassResult* block_mass() { return return_block_mass_ ? &block_mass_ : nullptr; }

  // What the call returns once it has been computed: out, the given one or a new one of q's
  // library; with what else was wanted, (out, lse, mass of blocks). Once.
  pybind11::object result();

 private:
  void take_causal(pybind11::handle causal);
  void take_window(pybind11::handle window);

  const char* const function_;
  const pybind11::handle q_object_;
  AttentionQuery query_;
  FloatArray q_, given_out_, slopes_, sinks_;
  BoolArray causal_, tree_;
  const pybind11::handle k_scale_option_, v_scale_option_;
  std::optional<ScaleArray> k_scale_, v_scale_;
  std::optional<DType> cache_dtype_;
  IndexArray cu_seqlens_q_, key_positions_;
  std::optional<IndexView> positions_;
  Layout layout_ = Layout::NHD;
  bool return_lse_ = false, return_block_mass_ = false;
  pybind11::object given_out_object_;
  ResultArray out_, lse_;
  BlockMassResult block_mass_;  // Python's in the end
  Implementation implementation_ = Implementation::fused;
  Execution how_{};
};

// Which implementation the last call of this thread ran on; empty: there was none.
std::string_view last_implementation();

}  // namespace quire::python
