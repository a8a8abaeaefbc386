// What models of all architectures have in common: their configuration, and the checks of forward.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/model/memory_report.h"
#include "quire/model/model.h"
#include "quire/model/model_config.h"

namespace quire {

class ForwardPass;
class ModelWeights;

class LoadedModel : public Model {
 public:
  std::int64_t vocab_size() const final { return shape_.vocab_size; }
  std::int64_t max_positions() const final { return shape_.max_positions; }
  KvShape kv_shape() const override;
  std::shared_ptr<RecurrentStates> make_states(std::int64_t num_slots) const final;
  std::span<const std::int64_t> stop_token_ids() const final { return stop_token_ids_; }
  void forward(const ForwardArgs& args, const Execution& how) const final;

  std::int64_t num_layers() const { return shape_.num_layers; }
  const ModelConfig& config() const { return config_; }
  const std::string& path() const { return path_; }  // that it was loaded from
  const MemoryReport& memory_report() const { return report_; }
  // Of the rows that products read: bfloat16 or float32 (forward_pass.h).
  DType rows() const { return rows_; }

 protected:
  explicit LoadedModel(const ModelConfig& config)
      : shape_(read_decoder_shape(config)), config_(config) {}

  // The formula: from the tokens to the logits. Of checked arguments.
  virtual void run(ForwardPass& pass) const = 0;
  // Of the states that each sequence has; none where there are no recurrent layers.
  virtual std::optional<RecurrentShape> recurrent_shape() const { return std::nullopt; }

  const DecoderShape shape_;

 private:
  friend std::shared_ptr<const LoadedModel> finished(std::shared_ptr<LoadedModel> model,
                                                     const ModelWeights& weights,
                                                     std::vector<std::int64_t> stop_token_ids);
  void check(const ForwardArgs& args) const;

  const ModelConfig config_;
  std::string path_;
  MemoryReport report_;
  std::vector<std::int64_t> stop_token_ids_;
  DType rows_ = DType::float32;
};

// A model whose weights have all been read.
std::shared_ptr<const LoadedModel> finished(std::shared_ptr<LoadedModel> model,
                                            const ModelWeights& weights,
                                            std::vector<std::int64_t> stop_token_ids);

}  // namespace quire
