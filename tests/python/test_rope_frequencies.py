"""quire.ops.rope_frequencies against plain formulas, and against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from operator_cases import assert_raises

from quire import ops

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 4096,
}
SCALED: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 2048},
    LLAMA3,
    {**LLAMA3, "factor": 32.0, "low_freq_factor": 1.5},
    YARN,
    {**YARN, "truncate": False},
    {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5},
    {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0},
    {**YARN, "factor": 1.0},
]


def test_unscaled_and_linear() -> None:
    inv_freq, attention_factor = ops.rope_frequencies(64, rope_theta=5e5)
    assert inv_freq.dtype == np.float32
    assert attention_factor == 1
    expected = 5e5 ** (-np.arange(32) / 32)
    np.testing.assert_array_equal(inv_freq, expected.astype(np.float32))
    scaled, _ = ops.rope_frequencies(64, rope_theta=5e5, rope_type="linear", factor=3)
    np.testing.assert_array_equal(scaled, (expected / 3).astype(np.float32))


def test_llama3_keeps_short_waves_and_divides_long_ones() -> None:
    plain, _ = ops.rope_frequencies(128, rope_theta=5e5)
    scaled, _ = ops.rope_frequencies(128, rope_theta=5e5, **LLAMA3)
    waves = 2 * np.pi / plain.astype(np.float64)
    short, long = waves < 8192 / 4, waves > 8192
    assert 0 < short.sum() < 64 - long.sum() < 64
    np.testing.assert_array_equal(scaled[short], plain[short])
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    assert (scaled[between] < plain[between]).all()
    assert (scaled[between] > plain[between] / 8).all()


@pytest.mark.parametrize("head_dim", [64, 128, 96])
@pytest.mark.parametrize("scaling", SCALED, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_against_transformers(scaling: dict[str, Any], head_dim: int) -> None:
    pytest.importorskip("torch")
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    if scaling["rope_type"] == "default":
        pytest.skip("computed by each model itself")
    llama = pytest.importorskip("transformers.models.llama.configuration_llama")
    context = scaling.get("original_max_position_embeddings", 2048)
    for theta in (1e4, 5e5):
        config = llama.LlamaConfig(
            hidden_size=head_dim * 4,
            num_attention_heads=4,
            head_dim=head_dim,
            max_position_embeddings=context,
            rope_parameters={**scaling, "rope_theta": theta},
        )
        for seq_len in (None, context, 5 * context + 3):
            function = rope_utils.ROPE_INIT_FUNCTIONS[scaling["rope_type"]]
            expected, expected_factor = function(config, "cpu", seq_len=seq_len)
            got, factor = ops.rope_frequencies(
                head_dim, rope_theta=theta, seq_len=seq_len, **scaling
            )
            # transformers' own are computed in float32
            np.testing.assert_allclose(got, np.asarray(expected.tolist()), rtol=3e-6)
            assert factor == pytest.approx(expected_factor, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotary_dim": 7}, "rope_frequencies: rotary_dim: got 7, expected an even number from 2 "),
        ({"rotary_dim": 2**40}, "rope_frequencies: rotary_dim: got 1099511627776"),
        ({"rope_type": "longrope"}, 'rope_frequencies: rope_type: got "longrope", expected'),
        ({"rope_theta": 0.5}, "rope_frequencies: rope_theta: got 0.5"),
        ({"rope_type": "linear", "factor": 0.5}, "rope_frequencies: factor: got 0.5"),
        ({"rope_type": "yarn"}, "rope_frequencies: original_max_position_embeddings: got None"),
        ({**YARN, "beta_slow": 0}, "rope_frequencies: beta_slow: got 0"),
        ({**YARN, "beta_fast": 0.5}, "rope_frequencies: beta_fast: got 0.5"),
        ({**YARN, "attention_factor": np.inf}, "rope_frequencies: attention_factor: got inf"),
        ({**LLAMA3, "high_freq_factor": 1}, "rope_frequencies: high_freq_factor: got 1"),
        ({"rope_type": "dynamic", "rotary_dim": 2}, "rope_frequencies: rotary_dim: got 2"),
        ({"seq_len": -1}, "rope_frequencies: seq_len: got -1"),
    ],
)
def test_errors_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    assert_raises(
        lambda: ops.rope_frequencies(**{"rotary_dim": 64, **options}), ValueError, message
    )
