// What help() shows of matrix products; see docstrings.h. M: rows; N, K: rows and columns of a
// weight, which are the outputs and the inputs of a linear layer.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kPackedWeight =
    R"(The weight of a linear layer, w [N, K], packed as products read it.

pack_weight makes one. It owns its numbers and never changes: threads may share it.
)";

inline constexpr const char* kUnpackWeight =
    R"(unpack(self)
--

The numbers that are multiplied, as a float32 array [N, K]: of int8 scale * number, of int4 scale *
number + offset, rounded once.
)";

inline constexpr const char* kPackWeight =
    R"(pack_weight(w, *, format='bfloat16', group_size=None, num_threads=None)
--

Packs the weight of a linear layer for all products with it.

Args:
    w: [N, K], N, K >= 1, float32, float16 or bfloat16, the last axis contiguous. It is not needed
        any more afterwards.
    format: "float32", "float16" or "bfloat16": numbers are rounded to nearest even, 4 or 2 bytes
        each. "int8": whole numbers -127 to 127 and a float32 scale for each row, max |w[n]| / 127; 1
        byte. "int4": numbers q of 0 to 15 that stand for scale * q + offset, with a scale and an
        offset for each row and group of K: the affine numbers of MLX (its quantize), whose scales
        and offsets are rounded to w's dtype and stored as float32; 0.5 bytes and 8 for each group.
        A last group may have fewer numbers of w: it is padded with zeros.
    group_size: 32, 64 or 128 numbers of K, of int4 alone. None: 64.
    num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, at
        most what the quota of its container is worth.

Returns:
    Weight, of .shape (N, K), .format, .group_size and .nbytes. K is padded to a multiple of 32, or
    of group_size, and N of 32.

Raises:
    ValueError, TypeError: also for a number that is not finite, where the format is int8 or int4.

Example:
    >>> weight = pack_weight(w, format="int8")
    >>> y = linear(x, weight)
)";

inline constexpr const char* kLinear =
    R"(linear(x, weight, *, bias=None, out=None, num_threads=None)
--

The product of a linear layer: out[m, n] = sum_k x[m, k] * w[n, k] + bias[n].

Sums are float32, and the result is rounded to x's dtype once, after the bias. A row of the result
has the same bits whatever the other rows, how many there are, and on any number of threads: they
depend on the row of x, the weight and the processor. Where x is bfloat16 and the weight bfloat16,
int8 or int4, subnormal numbers are taken for zero, and the bits are the same on all processors but
those without a fused multiply-add: they are those of AMX's tiles, which compute these products where
there are any.

Args:
    x: [M, K], float32, float16 or bfloat16, the last axis contiguous; M may be 0.
    weight: a Weight, or an array [N, K] of these dtypes, packed for this call alone: with the bits of
        pack_weight in its own dtype. Who multiplies with it again packs it once.
    bias: [N], of these dtypes.
    out: [M, N] of x's dtype or float32, written; its memory is none of the others'.
    num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, at
        most what the quota of its container is worth.

Returns:
    out, or a new array [M, N] of the library that x belongs to: NumPy's, PyTorch's, JAX's.

Raises:
    ValueError, TypeError: before anything is written.

Example:
    >>> y = linear(x, pack_weight(w), bias=bias)
)";

}  // namespace quire::python::docs
