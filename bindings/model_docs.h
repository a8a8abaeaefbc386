// What help() shows of models; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kLoadModel =
    R"(load_model(path, *, weights=None, num_threads=None)
--

A language model from a GGUF file, or from a Hugging Face folder: config.json, and model.safetensors
or the files that model.safetensors.index.json names.

Weights are packed as products read them, a panel of 32 rows at a time, and the files are let go of.
Rows that are multiplied by bfloat16, int8 and int4 weights are bfloat16, all others float32, and so
is the sum over the layers.

Args:
    path: of the file or folder, str, bytes or os.PathLike.
    weights: "float32", "float16", "bfloat16", "int8" (a scale for each row) or "int4" (a scale and an
        offset for each 64 numbers), as pack_weight makes them. None: as they are stored.
    num_threads: that pack weights. None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of
        this process, at most what the quota of its container is worth.

Returns:
    A Model.

Raises:
    OSError: a file is not there, or cannot be read.
    ValueError: for an architecture that is not known, with those that are; for a tensor that is
        missing or of another shape than the configuration says, with its name and what there is; for
        a file that is not what it should be; for weights.

Example:
    >>> model = load_model("SmolLM2-135M-Instruct", weights="int8")
)";

inline constexpr const char* kModel =
    R"(A language model whose weights are in memory; load_model makes one.

It does not change: threads may share it.
)";

inline constexpr const char* kModelLogits =
    R"(logits(self, token_ids, *, max_batch_tokens=512, num_threads=None)
--

Logits of the next token after each token of a prompt, by one forward pass over it.

Keys and values are kept for the call alone, in float32 where weights are float32 or float16, else in
bfloat16. A row has the same bits on any number of threads, and however the prompt is cut, where
build_info()["chunk_invariant"] holds.

Args:
    token_ids: [n], 1 to max_positions whole numbers of 0 to vocab_size - 1: a sequence, or an array
        of int32 or int64.
    max_batch_tokens: tokens that go through the layers together, at least 1: memory is in proportion.
    num_threads: as of load_model.

Returns:
    float32 [n, vocab_size].

Raises:
    ValueError, TypeError, IndexError: for other ids, or as many as the model has no positions for.
)";

inline constexpr const char* kModelMemoryReport =
    R"(memory_report(self)
--

What the weights take in memory, and what became of each format that they were stored in.

Returns:
    A MemoryReport, which prints as a table: a list with a dict for each pair of formats, "stored"
    ("BF16", "Q4_K", ... as the file calls it), "packed" ("bfloat16", "int4", ...), "tensors" and
    "numbers", how many, and "bytes", in memory.
)";

}  // namespace quire::python::docs
