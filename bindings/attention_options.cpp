#include "attention_options.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "docstrings.h"
#include "step_docs.h"

namespace quire::python {
namespace {

namespace py = pybind11;

constexpr std::size_t kLineLength = 100;

// Adds words to lines of a limited length, with `indent` before each but the first.
std::string wrapped(std::string_view first, std::string_view text, std::string_view indent) {
  std::string all(first);
  std::size_t length = first.size();
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    if (length + 1 + word.size() > kLineLength) {
      all += "\n";
      all += indent;
      length = indent.size();
    } else if (!all.ends_with(' ') && !all.ends_with('(')) {
      all += ' ';
      ++length;
    }
    all += word;
    length += word.size();
  }
  return all;
}

// "name(a, b, *, c=None, " and the options, as inspect reads a signature in a docstring.
std::string with_signature(std::string_view own_parameters, std::string_view text) {
  std::string options;
  for (const AttentionOption& option : kAttentionOptions) {
    options += std::string(options.empty() ? "" : ", ") + option.name + "=" + option.fallback;
  }
  return wrapped(own_parameters, options, "") + ")\n--\n\n" + std::string(text);
}

std::string option_docs() {
  std::string docs;
  for (const AttentionOption& option : kAttentionOptions) {
    docs += wrapped("    " + std::string(option.name) + ":", option.doc, "        ") + "\n";
  }
  return docs;
}

}  // namespace

ParameterList attention_options() {
  static const auto parameters = [] {
    std::array<ParameterList::Parameter, kNumAttentionOptions> all;
    for (std::size_t i = 0; i < all.size(); ++i)
      all[i] = {kAttentionOptions[i].name, kAttentionOptions[i].fallback};
    return all;
  }();
  return {parameters};
}

AttentionOptions Taken<const AttentionOptions&>::from(const py::handle* values) {
  AttentionOptions options;
  for (std::size_t i = 0; i < kAttentionOptions.size(); ++i)
    options.*kAttentionOptions[i].member = values[i];
  return options;
}

const char* paged_attention_doc() {
  static const std::string doc =
      with_signature(
          "paged_attention(q, k_cache, v_cache, block_tables, seq_lens, *, k_open=None, "
          "v_open=None, k_tail=None,",
          docs::kPagedAttention) +
      option_docs() + docs::kPagedAttentionResults;
  return doc.c_str();
}

const char* attend_doc() {
  static const std::string doc = with_signature("attend(q, tables, *, layer=0,", docs::kAttend);
  return doc.c_str();
}

const char* step_attend_doc() {
  static const std::string doc =
      with_signature("attend($self, q, k, v=None, *, layer=0,", docs::kStepAttend);
  return doc.c_str();
}

}  // namespace quire::python
