// What help() shows of sampling; see docstrings.h. B: rows, V: tokens of the vocabulary, T: tokens,
// E: experts.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kSample =
    R"(sample(logits, *, seed, position, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, prompt_ids=None, output_ids=None, bias=None, mask=None, out=None, num_threads=None)
--

Chooses a token for each row of logits.

A row goes through these steps, of which 1 to 3 are float32; filters are those of transformers, in
its order (vLLM has min_p before top_k):

1. bias is added; tokens that mask does not allow are out.
2. Penalties. A token of prompt_ids or output_ids: x > 0 ? x / repetition_penalty : x *
   repetition_penalty; then one that output_ids has n > 0 times: x - frequency_penalty * n -
   presence_penalty.
3. temperature 0: the largest logit is the token, of equals the lowest id.
4. p = softmax(x / temperature).
5. top_k: the k largest stay, and all that equal the last of them.
6. top_p: the fewest of the likeliest stay whose p reach top_p of what is left; of equals the lower
   ids. At least one does.
7. min_p: those of p >= min_p * the largest p stay.
8. In the order of ids, the first at which the sum of p exceeds u times the sum of all that are
   left. u is a number of [0, 1) that seed and position alone decide, by Philox4x32-10
   (quire.ops.reference.philox_uniform; Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): batches, threads and preemption do
   not matter.

Args:
    logits: [B, V], float32, float16 or bfloat16, the last axis contiguous; finite or -inf.
    seed: an int of -2**63 to 2**63 - 1. This and all options below up to frequency_penalty are a number, or one
        for each row: a list, or an array [B].
    position: where in its sequence the token will stand, an int: a new one for each token.
    temperature: >= 0.
    top_k: >= 0; 0: all.
    top_p: above 0, at most 1.
    min_p: 0 to 1.
    repetition_penalty: above 0; for tokens of prompt_ids and output_ids. Without any ids penalties
        change nothing.
    presence_penalty, frequency_penalty: for tokens of output_ids. Penalties are float32.
    prompt_ids, output_ids: [B, n], int32 or int64, tokens of the prompt and those chosen since;
        negative ones are padding.
    bias: [V] or [B, V], float32, float16 or bfloat16.
    mask: int32 [B, ceil(V / 32)]: bit i of word j allows token 32 * j + i, the mask of grammars
        (llguidance, xgrammar). Of bools: np.packbits(allowed, axis=-1,
        bitorder="little").view(np.int32), with V a multiple of 32.
    out: int64 [B], contiguous, where tokens go; None: a new array.
    num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, at
        most what the quota of its container is worth. A row is computed by one.

Returns:
    int64 [B]: out, or a new array of the library that logits belongs to.

Raises:
    ValueError: also for a logit that is NaN or infinity once bias and penalties are applied, and a
        row without any token to choose.
    IndexError: for an id that is V or more.
    TypeError.

Example:
    >>> token = sample(logits, seed=7, position=len(table), temperature=0.8, top_p=0.95)
)";

inline constexpr const char* kRoute =
    R"(route(logits, top_k, *, scoring='softmax', renormalise=True, bias=None, out=None, num_threads=None)
--

Chooses experts for each token, and how much each of them counts.

Scores are the softmax of a token's logits, or the sigmoid of each. The top_k experts of the largest
scores + bias are chosen; their weights are their scores without bias, divided by their sum where
renormalise says so (1 / top_k each, where all of them are 0). In float64, rounded once. softmax is Mixtral's and Qwen3's as in transformers,
Qwen2's without renormalise; sigmoid with a bias is DeepSeek-V3's (arXiv:2412.19437) without its groups
of experts, and its routed_scaling_factor is the caller's.

Args:
    logits: [T, E], float32, float16 or bfloat16, the last axis contiguous; finite.
    top_k: 1 to E.
    scoring: "softmax" or "sigmoid".
    renormalise: whether weights of a token add up to 1.
    bias: [E], float32, float16 or bfloat16.
    out: a tuple (float32 [T, top_k], int32 [T, top_k]) where weights and experts go, contiguous and
        apart from all else; None: new arrays.
    num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, at
        most what the quota of its container is worth.

Returns:
    (weights float32 [T, top_k], experts int32 [T, top_k]), the largest first, of equals the lowest
    id: the arrays of out, or new ones of the library that logits belongs to.

Raises:
    ValueError, TypeError: before anything is written.

Example:
    >>> weights, experts = route(logits, 8)
)";

}  // namespace quire::python::docs
