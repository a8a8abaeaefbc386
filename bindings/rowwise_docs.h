// What help() shows of norms, activations and rotations; see docstrings.h. D: numbers of a row, T:
// tokens, H: heads.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kRmsNorm =
    R"(rms_norm(x, weight, *, eps=1e-06, residual=None, weight_offset=0.0, gate=None, out=None, residual_out=None, num_threads=None)
--

Root mean square normalisation of each row, along the last axis:
y = h / sqrt(mean(h^2) + eps) * (weight_offset + weight), h = x + residual.

h is rounded to x's dtype, so that the bits are those of adding first. All else is float32, sums of
squares too, and y is rounded to out's dtype once. A row has the same bits whatever the other rows and
on any number of threads. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization"
(arXiv:1910.07467).

Args:
    x: [..., D], D >= 1, float32, float16 or bfloat16, the last axis contiguous, up to 5 axes.
    weight: [D], of these dtypes.
    eps: added to the mean of squares, >= 0.
    residual: as x; what is added to it.
    weight_offset: added to weight; 1.0 for models that store weight - 1, as Gemma does.
    gate: as x; y is multiplied by silu(gate), as in Gated DeltaNet.
    out: as x, written: y. It may be x, residual or gate itself, and else overlaps nothing. Of a
        float32 x it may be float16 or bfloat16 too, to which y is rounded, apart from all others.
    residual_out: as x, written: x + residual, where there is a residual. It may be x or residual
        itself.
    num_threads: None: QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process, at
        most what the quota of its container is worth.

Returns:
    y, or with a residual (y, x + residual): what was given for them, or new arrays of the library
    that x belongs to.

Raises:
    ValueError, TypeError: before anything is written.

Example:
    >>> y, h = rms_norm(x, weight, residual=h)
)";

inline constexpr const char* kSwiglu =
    R"(swiglu(gate, up, *, activation='silu', out=None, num_threads=None)
--

The gate of a feed-forward layer: activation(gate) * up, element by element.

silu(x) = x / (1 + e^-x); gelu(x) = x / 2 * (1 + erf(x / sqrt(2))); gelu_tanh(x) = x / 2 * (1 +
tanh(sqrt(2 / pi) * (x + 0.044715 x^3))). In float32, rounded to gate's dtype
once. Sources: Shazeer, "GLU Variants Improve Transformer" (arXiv:2002.05202), and
Hendrycks and Gimpel, "Gaussian Error Linear Units" (arXiv:1606.08415).

Args:
    gate: [..., D], D >= 1, float32, float16 or bfloat16, the last axis contiguous, up to 5 axes. It
        may be one half of a larger array.
    up: as gate.
    activation: "silu", "gelu", "gelu_tanh" or "sigmoid", 1 / (1 + e^-x).
    out: as gate, written; it may be gate or up itself, and else overlaps neither.
    num_threads: as of rms_norm.

Returns:
    out, or a new array of the library that gate belongs to.

Raises:
    ValueError, TypeError: before anything is written.

Example:
    >>> y = swiglu(h[:, :d], h[:, d:])
)";

inline constexpr const char* kRope =
    R"(rope(x, positions, *, theta=10000.0, rotary_dim=None, interleaved=False, inv_freq=None, attention_factor=1.0, out=None, num_threads=None)
--

Rotary position embedding: turns pairs of each head's numbers by position * inv_freq radians.

(a, b) becomes attention_factor * (a cos - b sin, b cos + a sin). Pair i is (i, i + rotary_dim / 2), or
interleaved (2 i, 2 i + 1). Angles are float64, taken modulo a whole turn before they become float32:
cos and sin are within 2e-7 at any position up to 1e6, and 1e-6 up to 1e9. The rest is float32,
rounded to x's dtype once. Source: Su et al., "RoFormer" (arXiv:2104.09864).

Args:
    x: [T, H, D], float32, float16 or bfloat16, the last axis contiguous.
    positions: [T], int32 or int64, up to 2**31 in magnitude; negative ones turn back.
    theta: inv_freq[i] = theta ** (-2 i / rotary_dim), in float64; >= 1.
    rotary_dim: how many numbers of a head are turned, the first ones; even. None: D.
    interleaved: which numbers are a pair, see above.
    inv_freq: [rotary_dim / 2], radians a position, used as they are instead of theta's, as
        rope_frequencies gives them.
    attention_factor: what cos and sin are multiplied by.
    out: as x, written; it may be x itself, and else does not overlap it.
    num_threads: as of rms_norm.

Returns:
    out, or a new array of the library that x belongs to.

Raises:
    ValueError, TypeError: before anything is written.
    IndexError: for a position out of range.

Example:
    >>> q = rope(q, positions, theta=5e5)
)";

inline constexpr const char* kRopeFrequencies =
    R"(rope_frequencies(rotary_dim, *, rope_theta=10000.0, rope_type='default', factor=1.0, original_max_position_embeddings=None, seq_len=None, low_freq_factor=1.0, high_freq_factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=True, mscale=None, mscale_all_dim=None, attention_factor=None)
--

Frequencies of a model whose rotary embedding is scaled, for rope's inv_freq and attention_factor.

Options are called as in rope_parameters of a config.json, and computed as in transformers, though in
float64 and rounded to float32 once. Unscaled, f[i] = rope_theta ** (-2 i / rotary_dim).

Args:
    rotary_dim: numbers of a head that are turned; even. partial_rotary_factor of a config is none of
        the options: rotary_dim is head_dim times it.
    rope_theta: >= 1.
    rope_type: "default": f. "linear": f / factor. "dynamic": rope_theta * (factor * n / L - (factor -
        1)) ** (d / (d - 2)) for rope_theta, n the larger of seq_len and L, d = rotary_dim, at least
        4. "yarn": f / factor of slow pairs, f of fast ones, mixed between them (arXiv:2309.00071).
        "llama3": f / factor of wavelengths above L / low_freq_factor, f of those below L /
        high_freq_factor, mixed between them linearly in 1 / wavelength, as in Llama 3.1. L is
        original_max_position_embeddings. Others ("longrope") are refused.
    factor: how many times longer the context has become, >= 1.
    original_max_position_embeddings: that context before; of "dynamic", "yarn" and "llama3".
    seq_len: tokens of the sequence; of "dynamic". It matters beyond the original context.
    low_freq_factor, high_freq_factor: of "llama3"; the second is larger.
    beta_fast, beta_slow: turns in the original context above and below which pairs are fast and slow;
        of "yarn". truncate: whether that is rounded to whole pairs.
    mscale, mscale_all_dim, attention_factor: of "yarn": attention_factor is what cos and sin are
        multiplied by. None: m(mscale) / m(mscale_all_dim) where both are given and not 0, else m(1),
        with m(a) = 0.1 a ln(factor) + 1.

Returns:
    (inv_freq, attention_factor): a float32 array [rotary_dim / 2], radians a position, and a float.

Raises:
    ValueError, TypeError.

Example:
    >>> inv_freq, attention_factor = rope_frequencies(128, **config["rope_parameters"])
    >>> q = rope(q, positions, inv_freq=inv_freq, attention_factor=attention_factor)
)";

}  // namespace quire::python::docs
