#include "attention_options.h"

#include <array>
#include <string>
#include <string_view>

#include "docstrings.h"
#include "step_docs.h"

namespace quire::python {
namespace {

namespace py = pybind11;

struct Option {
  const char* name;
  const char* fallback;  // as Python spells it
  py::handle AttentionOptions::* member;
  const char* doc;
};

constexpr std::array<Option, kNumAttentionOptions> kOptions = {{
    {"cu_seqlens_q", "None", &AttentionOptions::cu_seqlens_q,
     "[B + 1]: rows cu[i]:cu[i + 1] of q are the last tokens of sequence i. Where they are more "
     "than its tokens, the first stand before its first key, one position after the other."},
    {"key_positions", "None", &AttentionOptions::key_positions,
     "[B, max_tokens] int32 or int64: where each key stands, and the query of its token, "
     "for causal, sliding_window, num_sink_tokens and alibi_slopes; growing along a "
     "sequence from 0 or more, ignored at and past seq_len. None: key j stands at j."},
    {"causal", "True", &AttentionOptions::causal,
     "a query sees keys up to its own position, else all; a bool, or an array of bool [B]: one for "
     "each sequence."},
    {"tree_mask", "None", &AttentionOptions::tree_mask,
     "in place of causal, for the last n tokens of each sequence, n its number of queries: an n x "
     "n "
     "matrix of bool after the other, flat, whether the row sees the column. Keys before those are "
     "seen by all rows. Windows are by position here too. No token may be missing from a block of "
     "those n, and no scale be wrong, even if no row sees them."},
    {"scale", "None", &AttentionOptions::scale,
     "of the dot products; None: 1 / sqrt(D). What the numbers of a float8 q are multiples of is "
     "one "
     "more factor of it."},
    {"sliding_window", "None", &AttentionOptions::sliding_window,
     "a query sees this many keys, its own included, and of those after it what causal leaves; or "
     "(left, right), a tuple: keys at up to so many positions before and after its own, -1 for "
     "all, and of these what causal leaves. W is (W - 1, -1)."},
    {"num_sink_tokens", "0", &AttentionOptions::num_sink_tokens,
     "beside those of its window a query sees the first tokens of the sequence, this many "
     "(attention sinks, arXiv 2309.17453), of these too what causal leaves. Without sliding_window "
     "all are seen anyway."},
    {"softcap", "None", &AttentionOptions::softcap,
     "scores become softcap * tanh(score / softcap)."},
    {"alibi_slopes", "None", &AttentionOptions::alibi_slopes,
     "[Hq]: slope * (key position - query position) is added to a score."},
    {"sinks", "None", &AttentionOptions::sinks,
     "[Hq]: one more logit per head in the softmax's sum, without a value."},
    {"k_scale", "None", &AttentionOptions::k_scale,
     "what the numbers of a quantised k_cache are multiples of, positive and finite: "
     "float32 [num_blocks, block_size, Hkv] in either layout, [B, Hkv], [Hkv], [1] or a number. Of "
     "int4 float16 [num_blocks, Hkv, D, 2], the step, positive and finite, and the middle, "
     "finite, of each channel of a block; the last two axes are contiguous. Other caches "
     "have none."},
    {"v_scale", "None", &AttentionOptions::v_scale,
     "likewise for v_cache. Of int4 float16 [num_blocks, block_size, Hkv, 2], the step and "
     "middle of each value; the last axis is contiguous."},
    {"cache_dtype", "None", &AttentionOptions::cache_dtype,
     "of caches that are held as uint8: \"float8_e4m3fn\" or \"float8_e5m2\", whose bytes they "
     "are. "
     "None: as their arrays say, and uint8 is int4. What these say themselves may be said again; "
     "tables have the dtype of their pool."},
    {"layout", "'NHD'", &AttentionOptions::layout, "\"NHD\" or \"HND\", of all caches."},
    {"out", "None", &AttentionOptions::out,
     "[T, Hq, Dv] to write into, which is returned; None: a new array of q's library and dtype, "
     "bfloat16 where q is of a float8."},
    {"return_lse", "False", &AttentionOptions::return_lse,
     "also return the natural logarithm of each softmax's sum, [T, Hq] float32."},
    {"return_block_mass", "False", &AttentionOptions::return_block_mass,
     "also return what the keys of each block have of each softmax, [T, Hq, max_blocks] "
     "float32, 0 where none of them is seen. Without sinks a row sums to 1. \"fused\" and "
     "\"gather\" take the keys a second time for it."},
    {"implementation", "'auto'", &AttentionOptions::implementation,
     "\"fused\", \"gather\" or \"dense\"; \"auto\" is fused, or what QUIRE_ATTENTION "
     "names."},
    {"num_threads", "None", &AttentionOptions::num_threads,
     "None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, or as many as "
     "the control groups' quota of processor time is worth. The threads are shared: a call of a "
     "second thread of Python meanwhile computes alone."},
}};

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
  for (const Option& option : kOptions) {
    options += std::string(options.empty() ? "" : ", ") + option.name + "=" + option.fallback;
  }
  return wrapped(own_parameters, options, "") + ")\n--\n\n" + std::string(text);
}

std::string option_docs() {
  std::string docs;
  for (const Option& option : kOptions) {
    docs += wrapped("    " + std::string(option.name) + ":", option.doc, "        ") + "\n";
  }
  return docs;
}

}  // namespace

ParameterList attention_options() {
  static const auto parameters = [] {
    std::array<ParameterList::Parameter, kNumAttentionOptions> all;
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = {kOptions[i].name, kOptions[i].fallback};
    return all;
  }();
  return {parameters};
}

AttentionOptions Taken<const AttentionOptions&>::from(const py::handle* values) {
  AttentionOptions options;
  for (std::size_t i = 0; i < kOptions.size(); ++i) options.*kOptions[i].member = values[i];
  return options;
}

const char* paged_attention_doc() {
  static const std::string doc =
      with_signature(
          "paged_attention(q, k_cache, v_cache, block_tables, seq_lens, *, k_open=None, "
          "v_open=None,",
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
