#include "quire/model/model_weights.h"

#include <algorithm>
#include <cstring>

#include "quire/base/check.h"
#include "quire/base/interruption.h"

namespace quire {
namespace {

std::string shape_of(std::span<const std::int64_t> shape) {
  std::string text;
  for (const std::int64_t length : shape) text += concat(text.empty() ? "" : ", ", length);
  return concat("[", text, "]");
}

std::optional<DType> plain_dtype(std::string_view stored) {
  if (stored == "F32") return DType::float32;
  if (stored == "F16") return DType::float16;
  if (stored == "BF16") return DType::bfloat16;
  return std::nullopt;
}

// Where the layers' names begin, by the name of the embedding, which all have: in a model of text
// alone, and in the ways that models of several kinds of input have theirs.
std::string prefix_of(const TensorFile& file) {
  for (const std::string_view prefix :
       {"model.", "model.language_model.", "language_model.model."}) {
    if (file.find(concat(prefix, "embed_tokens.weight")) != nullptr) return std::string(prefix);
  }
  return "model.";
}

}  // namespace

void Embedding::read(std::int64_t token, float* to) const {
  if (tied != nullptr) {
    for (std::int64_t i = 0; i < hidden_size; ++i) to[i] = static_cast<float>(tied->at(token, i));
    return;
  }
  visit_dtype(dtype, [&](auto type) {
    const auto* const row =
        reinterpret_cast<const decltype(type)*>(rows.data()) + token * hidden_size;
    for (std::int64_t i = 0; i < hidden_size; ++i) to[i] = to_float(row[i]);
  });
}

ModelWeights::ModelWeights(std::string_view function, std::string path, const TensorFile& file,
                           WeightFormat format, int num_threads)
    : function_(function),
      path_(std::move(path)),
      file_(file),
      format_(format),
      num_threads_(num_threads),
      prefix_(prefix_of(file)) {}

std::string ModelWeights::full_name(std::string_view name) const {
  return name.starts_with("lm_head.") ? std::string(name) : concat(prefix_, name);
}

const TensorInfo& ModelWeights::expect(const std::string& name,
                                       std::span<const std::int64_t> shape) const {
  const TensorInfo* const info = file_.find(name);
  if (info == nullptr) {
    // those of the same layer, or whatever there is, tell what the model calls it
    constexpr std::size_t kMostListed = 24;
    const std::vector<std::string> names = file_.names();
    const auto begins_alike = [&](const std::string& other) {
      const std::size_t layers = name.find("layers.");
      if (layers == std::string::npos) return other.find("layers.") == std::string::npos;
      return other.starts_with(name.substr(0, name.find('.', layers + 7) + 1));
    };
    std::vector<std::string> alike;
    std::ranges::copy_if(names, std::back_inserter(alike), begins_alike);
    const std::vector<std::string>& shown = alike.empty() ? names : alike;
    std::string list;
    for (std::size_t i = 0; i < std::min(kMostListed, shown.size()); ++i) {
      list += concat(i == 0 ? "" : ", ", shown[i]);
    }
    if (shown.size() > kMostListed) list += concat(" and ", shown.size() - kMostListed, " more");
    raise<ValueError>(place(function_, "path"), "got ", path_, " without the tensor ", name,
                      ", expected one of shape ", shape_of(shape), "; there are ", list);
  }
  if (!std::ranges::equal(info->shape, shape)) {
    raise<ValueError>(place(function_, "path"), "got ", path_, " with ", name, " of shape ",
                      shape_of(info->shape), ", expected ", shape_of(shape),
                      ", as the configuration says");
  }
  return *info;
}

DType ModelWeights::format_of(const std::string& name, const TensorInfo& info) const {
  if (format_) return *format_;
  if (const auto plain = plain_dtype(info.dtype)) return *plain;
  return file_.affine_format(name).value_or(DType::int8);
}

Linear ModelWeights::linear(std::span<const Part> parts, std::int64_t columns, bool bias) {
  std::int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows;
  Linear result;
  std::vector<std::byte> numbers;
  std::optional<DType> dtype;  // of numbers: the stored one, where all parts have it
  std::optional<DType> format;
  for (const Part& part : parts) {
    const std::string name = full_name(concat(part.name, ".weight"));
    const std::int64_t shape[] = {part.rows, columns};
    const TensorInfo& info = expect(name, shape);
    const std::optional<DType> stored =
        file_.plain(name) ? plain_dtype(info.dtype) : DType::float32;
    dtype = !dtype || dtype == stored ? stored : DType::float32;
    const DType wanted = format_of(name, info);
    format = !format || format == wanted ? wanted : DType::float32;
  }
  const auto row_bytes = columns * static_cast<std::int64_t>(size_of(*dtype));
  numbers.resize(static_cast<std::size_t>(rows * row_bytes));
  std::int64_t row = 0;
  for (const Part& part : parts) {
    check_interruption();
    const std::string name = full_name(concat(part.name, ".weight"));
    std::byte* const to = numbers.data() + row * row_bytes;
    if (plain_dtype(file_.find(name)->dtype) == dtype && file_.plain(name)) {
      std::memcpy(to, file_.plain(name)->data, static_cast<std::size_t>(part.rows * row_bytes));
    } else {
      file_.read_rows(name, 0, part.rows, reinterpret_cast<float*>(to));
    }
    file_.let_go(name);
    row += part.rows;
    if (bias) {
      const std::int64_t shape[] = {part.rows};
      const std::vector<float> some = floats(concat(part.name, ".bias"), shape);
      result.bias.insert(result.bias.end(), some.begin(), some.end());
    }
  }
  const ArrayView view = contiguous_view(numbers.data(), *dtype, {rows, columns}, false);
  result.weight = pack_weight(view, {*format, std::nullopt}, num_threads_, function_);
  for (const Part& part : parts) {
    const TensorInfo& info = *file_.find(full_name(concat(part.name, ".weight")));
    MemoryReport::Line& line = report_.lines[{info.dtype, std::string(name_of(*format))}];
    line.tensors += 1;
    line.numbers += part.rows * columns;
    line.bytes += result.weight->nbytes() * part.rows / rows;
  }
  return result;
}

std::vector<float> ModelWeights::floats(std::string_view name,
                                        std::span<const std::int64_t> shape) {
  const std::string full = full_name(name);
  const TensorInfo& info = expect(full, shape);
  std::vector<float> numbers(static_cast<std::size_t>(info.num_rows() * info.num_columns()));
  file_.read_rows(full, 0, info.num_rows(), numbers.data());
  MemoryReport::Line& line = report_.lines[{info.dtype, "float32"}];
  line.tensors += 1;
  line.numbers += std::ssize(numbers);
  line.bytes += std::ssize(numbers) * std::int64_t{sizeof(float)};
  return numbers;
}

Norm ModelWeights::norm(std::string_view name, std::int64_t length, double eps, double offset) {
  const std::int64_t shape[] = {length};
  Norm norm{floats(concat(name, ".weight"), shape), eps};
  for (float& weight : norm.weight) weight += static_cast<float>(offset);
  return norm;
}

Embedding ModelWeights::embedding(std::string_view name, std::int64_t vocab_size,
                                  std::int64_t hidden_size) {
  const std::string full = full_name(concat(name, ".weight"));
  const std::int64_t shape[] = {vocab_size, hidden_size};
  const TensorInfo& info = expect(full, shape);
  Embedding embedding;
  embedding.hidden_size = hidden_size;
  embedding.dtype = plain_dtype(info.dtype).value_or(DType::bfloat16);
  embedding.rows.resize(static_cast<std::size_t>(vocab_size * hidden_size) *
                        size_of(embedding.dtype));
  std::vector<float> row(static_cast<std::size_t>(hidden_size));
  for (std::int64_t token = 0; token < vocab_size; ++token) {
    file_.read_rows(full, token, token + 1, row.data());
    visit_dtype(embedding.dtype, [&](auto type) {
      using T = decltype(type);
      T* const to = reinterpret_cast<T*>(embedding.rows.data()) + token * hidden_size;
      for (std::int64_t i = 0; i < hidden_size; ++i) {
        to[i] = from_float<T>(row[static_cast<std::size_t>(i)]);
      }
    });
  }
  file_.let_go(full);
  MemoryReport::Line& line = report_.lines[{info.dtype, std::string(name_of(embedding.dtype))}];
  line.tensors += 1;
  line.numbers += vocab_size * hidden_size;
  line.bytes += std::ssize(embedding.rows);
  return embedding;
}

Ends ModelWeights::ends(const DecoderShape& shape) {
  Ends ends;
  if (shape.tied_embeddings.value_or(!has("lm_head.weight"))) {
    ends.output = linear({"embed_tokens", shape.vocab_size}, shape.hidden_size);
    ends.embedding.tied = ends.output.weight;
    ends.embedding.hidden_size = shape.hidden_size;
  } else {
    ends.embedding = embedding("embed_tokens", shape.vocab_size, shape.hidden_size);
    ends.output = linear({"lm_head", shape.vocab_size}, shape.hidden_size);
  }
  return ends;
}

}  // namespace quire
