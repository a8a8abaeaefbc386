// What help() shows of operators that keep a state for each sequence; see docstrings.h. T: tokens
// of the whole batch, B: sequences, C: channels, K: taps; Hk, Hv: heads of keys and values, Dk, Dv:
// their sizes; S: states, of which a call uses B.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kCausalConv1d =
    R"(causal_conv1d(x, weight, *, state, bias=None, cu_seqlens=None, activation='silu', state_indices=None, out=None, num_threads=None)
--

A short convolution along the tokens of each sequence, each channel by itself:
out[t, c] = activation(bias[c] + sum_j weight[c, j] * x[t - (K - 1) + j, c]).

What was before the first token of a call is in state, which the call brings up to date: zeros for a
new sequence. In float32, rounded to x's dtype once. A token has the same bits however its sequence is
cut into calls. Source: Gu and Dao, "Mamba" (arXiv:2312.00752).

Args:
    x: [T, C], float32, float16 or bfloat16, the last axis contiguous: tokens of all sequences, one
        after the other.
    weight: [C, K], of these dtypes; K from 1 to 16.
    state: [S, C, K - 1], float32 or x's dtype, to which it is rounded, written: the last K - 1
        numbers of each channel, the oldest first. The last axis is contiguous.
    bias: [C], of these dtypes.
    cu_seqlens: [B + 1], int32 or int64, from 0 to T: sequence i has tokens cu_seqlens[i] to
        cu_seqlens[i + 1], perhaps none. None: one token each (T == B), or one sequence alone (B ==
        1).
    activation: "silu" or None.
    state_indices: [B], int32 or int64: of the S states the one of each sequence, different ones, so
        that states stay where they are while batches change. None: all of them in their order, S ==
        B.
    out: as x, written; it overlaps nothing that is read.
    num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, at
        most what the quota of its container is worth.

Returns:
    out, or a new array [T, C] of the library that x belongs to.

Raises:
    ValueError, TypeError, IndexError: before anything is written. A call that Ctrl-C ends leaves state and out
    partly written: the sequence has to begin anew.

Example:
    >>> y = causal_conv1d(x, weight, state=state, cu_seqlens=step.cu_seqlens_q)
)";

inline constexpr const char* kGatedDeltaRule =
    R"(gated_delta_rule(q, k, v, g, beta, *, state, cu_seqlens=None, scale=None, state_indices=None, out=None, num_threads=None)
--

Linear attention of Gated DeltaNet: each head has a matrix S [Dk, Dv] that each token changes, and
reads: S <- e^g S; S <- S + k (beta (v - S^T k))^T; out = S^T (scale * q).

Key head h // (Hv // Hk) is that of value head h. In float32, token after token, rounded to q's dtype
once. A token's bits, and the state's, are the same however its sequence is cut into calls, a token at
a time too. Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks" (arXiv:2412.06464).

Models normalise q and k to length 1 first, which rms_norm does with a weight of Dk ** -0.5 and an eps
of 1e-6 / Dk.

Args:
    q, k: [T, Hk, Dk], float32, float16 or bfloat16, the last axis contiguous: tokens of all
        sequences, one after the other.
    v: [T, Hv, Dv], Hv a multiple of Hk, any of these dtypes, which may differ from q's, as k's may.
    g: [T, Hv], any of these dtypes: the natural logarithm of what is kept of S, usually at most 0.
    beta: [T, Hv], likewise: how much of the difference is written, usually 0 to 1. Neither is
        checked.
    state: [S, Hv, Dk, Dv], float32, written; zeros for a new sequence. The last axis of all arrays is
        contiguous.
    cu_seqlens: [B + 1], int32 or int64, from 0 to T, as of causal_conv1d. None: one token each (T ==
        B), or one sequence alone (B == 1).
    scale: of q. None: 1 / sqrt(Dk).
    state_indices: [B], which states the sequences have, as of causal_conv1d.
    out: [T, Hv, Dv] of q's dtype, written; it overlaps nothing that is read.
    num_threads: as of causal_conv1d.

Returns:
    out, or a new array of the library that q belongs to.

Raises:
    ValueError, TypeError, IndexError: before anything is written. A call that Ctrl-C ends leaves state and out
    partly written: the sequence has to begin anew.

Example:
    >>> o = gated_delta_rule(q, k, v, g, beta, state=state, cu_seqlens=step.cu_seqlens_q)
)";

}  // namespace quire::python::docs
