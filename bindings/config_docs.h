// The docstrings of what is asked about the build.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kBuildInfo =
    R"(build_info()
--

What this build is and what runs, as a dict.

Keys:
    version, compiler: of the package, str.
    instruction_sets_built, instruction_sets_available: lists of names, the richest first: those in
        this build, and those of them that this machine has.
    instruction_sets_missing: a dict, name to reason, of those that it lacks, as far as a reason is
        known (AMX).
    instruction_set, instruction_set_of_quantised: what attention runs on with caches of bfloat16,
        and with those of 8 and 4 bits.
    chunk_invariant: bool. True with QUIRE_CPU=amx: attention whose queries, caches and results are
        all bfloat16 then gives a token the same bits alone, in any chunk, verified with others and
        after a prefix hit. Other dtypes have no such promise.
    num_threads: the default of every operation, int.

Raises:
    ValueError: QUIRE_CPU names an instruction set that this machine lacks, or QUIRE_NUM_THREADS is
        not a whole number >= 1.

Example:
    >>> quire.build_info()["chunk_invariant"]
    False
)";

}  // namespace quire::python::docs
