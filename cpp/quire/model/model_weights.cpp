#include "quire/model/model_weights.h"

#include <algorithm>

#include "quire/base/check.h"
#include "quire/model/gguf_model.h"
#include "quire/ops/linear/pack_affine.h"
#include "quire/ops/linear/pack_weight.h"

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

// The rows of several tensors that are packed alike, one after the other.
class ModelWeights::PartRows {
 public:
  struct Piece {
    std::string name;
    std::int64_t first, count;
  };

  // `is_affine`: the file has them as affine numbers of `format`, and they stay what they are.
  PartRows(std::int64_t columns, DType packed_format, bool stays_affine)
      : num_columns(columns), format(packed_format), is_affine(stays_affine) {}

  void add(std::string name, std::int64_t count) {
    pieces.push_back({std::move(name), num_rows, count});
    num_rows += count;
  }

  // Calls read(name, first row of the tensor, one after the last, rows before) for each tensor that
  // has some of rows [begin, end).
  template <class Read>
  void visit(std::int64_t begin, std::int64_t end, const Read& read) const {
    for (const Piece& piece : pieces) {
      const std::int64_t first = std::max(begin, piece.first);
      const std::int64_t last = std::min(end, piece.first + piece.count);
      if (first < last) read(piece.name, first - piece.first, last - piece.first, first - begin);
    }
  }

  FloatRows floats(const TensorFile& file) const {
    return {num_rows, num_columns,
            [this, &file](std::int64_t begin, std::int64_t end, float* rows) {
              visit(begin, end, [&](const std::string& name, auto first, auto last, auto before) {
                file.read_rows(name, first, last, rows + before * num_columns);
              });
            }};
  }

  AffineSource affine(const TensorFile& file) const {
    return {num_rows, num_columns,
            [this, &file](std::int64_t begin, std::int64_t end, std::int8_t* numbers, float* scales,
                          float* offsets) {
              const std::int64_t groups = num_columns / kAffineGroup;
              visit(begin, end, [&](const std::string& name, auto first, auto last, auto before) {
                file.read_affine_rows(name, first, last,
                                      {numbers + before * num_columns, scales + before * groups,
                                       offsets + before * groups});
              });
            },
            format};
  }

  std::vector<Piece> pieces;
  std::int64_t num_rows = 0;
  const std::int64_t num_columns;
  const DType format;
  const bool is_affine;
};

ModelWeights::ModelWeights(std::string_view function, std::string path, const TensorFile& file,
                           WeightFormat format, int num_threads)
    : function_(function),
      path_(std::move(path)),
      file_(file),
      format_(format),
      num_threads_(num_threads),
      prefix_(prefix_of(file)),
      has_late_norms_(file.find("blk.0.post_ffw_norm.weight") != nullptr) {}

std::string ModelWeights::full_name(std::string_view name) const {
  if (file_.gguf() != nullptr) return gguf_tensor_name(name, has_late_norms_);
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
      for (const std::string_view layers : {"layers.", "blk."}) {
        const std::size_t found = name.find(layers);
        if (found == std::string::npos) continue;
        return other.starts_with(name.substr(0, name.find('.', found + layers.size()) + 1));
      }
      return other.find("layers.") == std::string::npos && !other.starts_with("blk.");
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

DType ModelWeights::format_of(const std::string& name) const {
  if (format_) return *format_;
  if (const auto plain = plain_dtype(file_.find(name)->dtype)) return *plain;
  return file_.affine_format(name).value_or(DType::int8);
}

Linear ModelWeights::linear(std::span<const Part> parts, std::int64_t columns, bool bias) {
  std::vector<PartRows> products;
  for (const Part& part : parts) {
    std::string name = full_name(concat(part.name, ".weight"));
    const std::int64_t shape[] = {part.rows, columns};
    expect(name, shape);
    const DType format = format_of(name);
    const bool is_affine = !format_ && file_.affine_format(name).has_value();
    if (products.empty() || products.back().format != format ||
        products.back().is_affine != is_affine) {
      products.emplace_back(columns, format, is_affine);
    }
    products.back().add(std::move(name), part.rows);
  }
  Linear result;
  for (const PartRows& rows : products) result.weights.push_back(pack(rows));
  const auto has_bias = [&](const Part& part) { return has(concat(part.name, ".bias")); };
  if (file_.gguf() != nullptr && std::ranges::any_of(parts, has_bias)) bias = true;
  for (const Part& part : parts) {
    if (!bias) break;
    const std::int64_t shape[] = {part.rows};
    const std::vector<float> some = floats(concat(part.name, ".bias"), shape);
    result.bias.insert(result.bias.end(), some.begin(), some.end());
  }
  return result;
}

std::shared_ptr<const Weight> ModelWeights::pack(const PartRows& rows) {
  // numbers that cannot be packed are told by their row among those of these tensors
  std::string where = concat(place(function_, "path"), ": ", path_, ": ");
  for (const PartRows::Piece& piece : rows.pieces) {
    where += concat(&piece == &rows.pieces.front() ? "" : ", ", piece.name);
  }
  const std::shared_ptr<const Weight> weight =
      rows.is_affine
          ? pack_affine(rows.affine(file_), num_threads_, where)
          : pack_weight(rows.floats(file_), {rows.format, std::nullopt}, num_threads_, where);
  for (const PartRows::Piece& piece : rows.pieces) {
    MemoryReport::Line& line =
        report_.lines[{file_.find(piece.name)->dtype, std::string(name_of(rows.format))}];
    line.tensors += 1;
    line.numbers += piece.count * rows.num_columns;
    line.bytes += weight->nbytes() * piece.count / rows.num_rows;
    file_.let_go(piece.name);
  }
  return weight;
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
  const DType dtype = plain_dtype(info.dtype).value_or(DType::bfloat16);
  const std::int64_t bytes = vocab_size * hidden_size * static_cast<std::int64_t>(size_of(dtype));
  Embedding embedding;
  embedding.hidden_size = hidden_size;
  embedding.memory = large_bytes(bytes);
  embedding.rows = contiguous_view(embedding.memory.get(), dtype, {vocab_size, hidden_size});
  std::vector<float> row(static_cast<std::size_t>(hidden_size));
  for (std::int64_t token = 0; token < vocab_size; ++token) {
    file_.read_rows(full, token, token + 1, row.data());
    visit_dtype(dtype, [&](auto type) {
      using T = decltype(type);
      T* const to = reinterpret_cast<T*>(embedding.rows.at(token));
      std::ranges::transform(row, to, [](float number) { return from_float<T>(number); });
    });
  }
  file_.let_go(full);
  MemoryReport::Line& line = report_.lines[{info.dtype, std::string(name_of(dtype))}];
  line.tensors += 1;
  line.numbers += vocab_size * hidden_size;
  line.bytes += bytes;
  return embedding;
}

Ends ModelWeights::ends(const DecoderShape& shape) {
  Ends ends;
  if (shape.tied_embeddings.value_or(!has("lm_head.weight"))) {
    ends.output = linear({"embed_tokens", shape.vocab_size}, shape.hidden_size);
    ends.embedding.tied = ends.output.weights.front();
    ends.embedding.hidden_size = shape.hidden_size;
  } else {
    ends.embedding = embedding("embed_tokens", shape.vocab_size, shape.hidden_size);
    ends.output = linear({"lm_head", shape.vocab_size}, shape.hidden_size);
  }
  return ends;
}

}  // namespace quire
