// The weights of a model, from a file's tensors by name to what a forward pass multiplies.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/huge_pages.h"
#include "quire/io/tensor_file.h"
#include "quire/model/memory_report.h"
#include "quire/model/model_config.h"
#include "quire/ops/linear/weight.h"

namespace quire {

// A linear layer, or several whose results stand beside each other, as the queries, keys and values
// of a token do: one product instead of three. Layers that are packed in several ways are as many
// products, whose columns of the result follow one another, so that none takes more memory for the
// sake of its neighbours.
struct Linear {
  std::vector<std::shared_ptr<const Weight>> weights;
  std::vector<float> bias;  // [N], of all of them; empty: none

  std::int64_t num_rows() const {  // N
    std::int64_t sum = 0;
    for (const auto& weight : weights) sum += weight->num_rows();
    return sum;
  }
};

// A norm's weight, with the offset added.
struct Norm {
  std::vector<float> weight;
  double eps = 0;
};

// Rows of tokens: the model's output weight, where both are one, or rows as they are stored.
struct Embedding {
  std::shared_ptr<const Weight> tied;
  PagedBytes memory;  // of rows
  ArrayView rows{};   // [vocab_size, hidden_size], where nothing is tied
  std::int64_t hidden_size = 0;
};

// Where tokens go in, and logits come out.
struct Ends {
  Embedding embedding;
  Linear output;
};

// How weights are to be packed; none: as they are stored.
using WeightFormat = std::optional<DType>;

class ModelWeights {
 public:
  // A tensor of [rows, columns] that a linear layer is made of, without ".weight"; a bias stands
  // beside it under ".bias".
  struct Part {
    std::string name;
    std::int64_t rows;
  };

  // `function` and `path` are what messages say. Names below begin after "model.", or whatever
  // stands for it in this file.
  ModelWeights(std::string_view function, std::string path, const TensorFile& file,
               WeightFormat format, int num_threads);

  // The parts one after the other. With `bias`, each part has one; without, none is looked for, but
  // in GGUF files, whose tensors alone say whether there are some: there either all parts have one,
  // or none. Throw ValueError that names the tensor: where it is missing, with those that there
  // are; and for another shape.
  Linear linear(std::span<const Part> parts, std::int64_t columns, bool bias = false);
  Linear linear(const Part& part, std::int64_t columns, bool bias = false) {
    return linear(std::span(&part, 1), columns, bias);
  }
  Norm norm(std::string_view name, std::int64_t length, double eps, double offset = 0);
  // All numbers of a tensor of this shape.
  std::vector<float> floats(std::string_view name, std::span<const std::int64_t> shape);
  // "embed_tokens" and "lm_head"; or the first as both, stored once, where the configuration says
  // so, or says nothing and there is no second.
  Ends ends(const DecoderShape& shape);
  // Whether there is such a tensor.
  bool has(std::string_view name) const { return file_.find(full_name(name)) != nullptr; }

  const std::string& path() const { return path_; }
  // What has been read so far.
  const MemoryReport& report() const { return report_; }

 private:
  class PartRows;

  std::shared_ptr<const Weight> pack(const PartRows& rows);
  Embedding embedding(std::string_view name, std::int64_t vocab_size, std::int64_t hidden_size);
  std::string full_name(std::string_view name) const;
  const TensorInfo& expect(const std::string& name, std::span<const std::int64_t> shape) const;
  DType format_of(const std::string& name) const;

  const std::string_view function_;
  const std::string path_;
  const TensorFile& file_;
  const WeightFormat format_;
  const int num_threads_;
  const std::string prefix_;
  const bool has_late_norms_;
  MemoryReport report_;
};

}  // namespace quire
