// The options that all functions of attention have, each described once: its name, its default and
// what help() says of it. Signatures, docstrings and calls are made from this.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>

#include "fast_function.h"

namespace quire::python {

// As a call gives them. AttentionCall (attention_call.h) says what they mean.
struct AttentionOptions {
  pybind11::handle cu_seqlens_q, key_positions, causal, tree_mask, scale, sliding_window,
      num_sink_tokens, softcap, alibi_slopes, sinks, k_scale, v_scale, cache_dtype, layout, out,
      return_lse, return_block_mass, implementation, num_threads;
};

inline constexpr std::size_t kNumAttentionOptions =
    sizeof(AttentionOptions) / sizeof(pybind11::handle);

struct AttentionOption {
  const char* name;
  const char* fallback;  // as Python spells it
  pybind11::handle AttentionOptions::* member;
  const char* doc;
};

inline constexpr std::array<AttentionOption, kNumAttentionOptions> kAttentionOptions = {{
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
     "of the dot products; None: 1 / sqrt(D). What the numbers of a float8 q are multiples of is a "
     "factor of it."},
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
     "what the numbers of a quantised k_cache are multiples of, positive and finite: float32 "
     "[num_blocks, block_size, Hkv] in either layout, [B, Hkv], of each sequence, [Hkv], [1] or a "
     "number. Of int4 float16 [num_blocks, Hkv, D, 2], the step, positive and finite, and the "
     "middle, finite, of each channel of a block; the last two axes are contiguous. Other caches "
     "have none."},
    {"v_scale", "None", &AttentionOptions::v_scale,
     "likewise for v_cache. Of int4 float16 [num_blocks, block_size, Hkv, 2], the step and "
     "middle of each value; the last axis is contiguous."},
    {"cache_dtype", "None", &AttentionOptions::cache_dtype,
     "of caches that are held as uint8, both of them: \"float8_e4m3fn\" or \"float8_e5m2\", a name "
     "or a NumPy dtype: what the bytes are. None: the arrays' own dtypes, and uint8 is int4. Of "
     "other "
     "caches, and of tables, it may only name the dtype that they have."},
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

// For FastFunction: the last parameters of a signature.
ParameterList attention_options();
template <>
struct Taken<const AttentionOptions&> {
  static constexpr std::size_t kValues = kNumAttentionOptions;
  static AttentionOptions from(const pybind11::handle* values);
};

// The docstrings of functions that have them; they live as long as the program.
const char* paged_attention_doc();
const char* attend_doc();
const char* step_attend_doc();

}  // namespace quire::python
