// What help() shows of the engine of C++; see docstrings.h. quire.Engine is its face in Python.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kTokenEngine =
    R"(TokenEngine(model, *, num_blocks=None, dtype="bfloat16", block_size=16, prefix_cache=True, max_batch_tokens=512, max_sequences=256, draft="none", num_threads=None)
--

The engine behind quire.Engine, which describes all of it: token ids in, token ids out.

Raises:
    As quire.Engine.

Example:
    >>> engine = TokenEngine(quire.load_model(path))
)";

inline constexpr const char* kEngineSubmit =
    R"(submit(self, prompt_ids, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, stop_token_ids=(), ignore_eos=False, seed=0, logprobs=0, namespace="")
--

Queues a request, as quire.Engine.submit; tokens alone end its answer.

Args:
    prompt_ids: an array [n] of int32 or int64, or a list of ints. stop_token_ids: likewise.

Raises:
    As quire.Engine.submit.

Example:
    >>> request = engine.submit([1, 2, 3], max_tokens=10)
)";

inline constexpr const char* kEngineStep =
    R"(step(self)
--

One forward pass; a list of the TokenRequests that got a token, the oldest first.

Other threads of Python run meanwhile. Ctrl-C ends it within 0.2 s or little more, and nothing has
changed then.

Raises:
    What the model raises. ValueError: logits that are not finite, with the request.

Example:
    >>> while engine.has_unfinished:
    ...     for request in engine.step():
    ...         print(request.id, request.token_ids()[-1])
)";

inline constexpr const char* kEngineStats =
    R"(stats(self)
--

What it has done so far, and what it holds, as a dict; quire.EngineStats has the same by name.

Example:
    >>> engine.stats()["preemptions"]
    0
)";

inline constexpr const char* kEngineCheck =
    R"(check(self)
--

Verifies that requests, tables and blocks agree. O(slots of the pool).

Raises:
    RuntimeError: the first thing that does not hold, which is a bug of Quire.

Example:
    >>> engine.check()
)";

inline constexpr const char* kTokenRequest =
    R"(A request of a TokenEngine, made by its submit: a prompt and the answer so far, as token ids.

Any thread may read it, and end it.
)";

inline constexpr const char* kTokenIds =
    R"(token_ids(self, first=0)
--

The tokens of the answer so far, from the one with index first on, a list of ints.

Raises:
    ValueError: first is below 0.

Example:
    >>> request.token_ids()
    [17, 4]
)";

inline constexpr const char* kCancel =
    R"(cancel(self)
--

Ends the answer where it stands; its blocks are free once a step has begun or ended.

Does nothing to a request that has finished.

Example:
    >>> request.cancel()
)";

inline constexpr const char* kStop =
    R"(stop(self, num_tokens=None)
--

Ends the answer as complete, finish_reason "stop", also where its last token was the last allowed.

Args:
    num_tokens: so many tokens of the answer are kept; None: all.

Raises:
    ValueError: more than there are, or fewer than 0.

Example:
    >>> request.stop(1)
)";

inline constexpr const char* kLogprobs =
    R"(Of each token of the answer, where logprobs were asked for: its logarithm, and those of the likeliest.

A list of (logprob, [(token id, logprob), ...]).
)";

}  // namespace quire::python::docs
