// The docstrings of what is asked about the build.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kBuildInfo =
    R"(build_info()
--

What this build is and what runs, as a dict.

Keys:
    version, compiler: of the package, str.
    instruction_sets_built: names, the richest first; of these instruction_sets_available are the
        ones that this machine has, and instruction_sets_missing, a dict, says why it lacks others,
        where there is more than one possible reason.
    instruction_set, instruction_set_of_quantised: what attention runs on with caches of bfloat16,
        and with those of 8 and 4 bits.
    chunk_invariant: True where the attention of a token has the same bits alone, in a chunk,
        verified with others and after a prefix hit. It then holds where queries, caches and
        results are all bfloat16. So it is with QUIRE_CPU=amx.
    num_threads: the default of every operation, int.

Raises:
    ValueError: QUIRE_CPU names an instruction set that this machine lacks, or a number of threads
        in the environment is none.

Example:
    >>> quire.build_info()["chunk_invariant"]
    False
)";

}  // namespace quire::python::docs
