"""quire.load_model: logits of two real models against transformers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from model_folders import read_tensors, write_tensors

import quire

MODELS = Path(__file__).resolve().parent.parent / "data" / "models"
NAMES = ["pystdlib-llama", "pystdlib-qwen3_5"]
Reference = dict[str, Any]


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(name: str) -> Reference:
    with np.load(MODELS / name / "reference.npz") as arrays:
        return {key: arrays[key] for key in arrays}


@pytest.fixture(scope="module")
def exact(name: str) -> quire.Model:
    return quire.load_model(MODELS / name, weights="float32")


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def mean_divergence(model: quire.Model, reference: Reference) -> float:
    """Nats of Kullback and Leibler's divergence from transformers' float32, at each position."""
    got = log_softmax(model.logits(reference["long_ids"])[reference["long_positions"]])
    right = log_softmax(reference["long_logits"])
    return float((np.exp(right) * (right - got)).sum(axis=-1).mean())


@pytest.mark.parametrize("prompt", range(4))
def test_logits_of_prompts(exact: quire.Model, reference: Reference, prompt: int) -> None:
    logits = exact.logits(reference[f"p{prompt}_ids"])
    assert logits.dtype == np.float32
    assert np.abs(logits - reference[f"p{prompt}_logits"]).max() < 2e-4


@pytest.mark.parametrize("at_once", [512, 1])
@pytest.mark.parametrize("prompt", range(4))
def test_greedy_tokens(exact: quire.Model, reference: Reference, prompt: int, at_once: int) -> None:
    """Each token is the likeliest one after those before it, so that greedy decoding gives them.

    Also where tokens are decoded one by one.
    """
    ids, greedy = reference[f"p{prompt}_ids"], reference[f"p{prompt}_greedy"]
    logits = exact.logits(np.concatenate([ids, greedy]), max_batch_tokens=at_once)
    logits = logits[len(ids) - 1 : -1]
    assert logits.argmax(axis=-1).tolist() == greedy.tolist()


def test_a_long_text(exact: quire.Model, reference: Reference) -> None:
    logits = exact.logits(reference["long_ids"])
    assert np.abs(logits[reference["long_positions"]] - reference["long_logits"]).max() < 1e-3
    next_ids = reference["long_ids"][1:, None]
    nats = -np.take_along_axis(log_softmax(logits)[:-1], next_ids, axis=1)[:, 0]
    assert np.abs(nats - reference["long_nll"]).max() < 1e-3


# What is measured, rounded up. A scale for each row alone is coarse for the small llama, whose
# rows have few numbers: float32 products with the same int8 numbers are as far off, 5.3e-3.
MOST_DIVERGENCE = {
    "pystdlib-llama": {"bfloat16": 1e-3, "int8": 7e-3, "int4": 0.8},
    "pystdlib-qwen3_5": {"bfloat16": 1e-4, "int8": 6e-4, "int4": 0.08},
}


@pytest.mark.parametrize("weights", ["bfloat16", "int8", "int4"])
def test_fewer_bits(name: str, reference: Reference, weights: Any) -> None:
    model = quire.load_model(MODELS / name, weights=weights)
    assert mean_divergence(model, reference) < MOST_DIVERGENCE[name][weights]


def test_weights_are_as_stored(name: str, reference: Reference) -> None:
    ids = reference["p0_ids"]
    as_stored = quire.load_model(MODELS / name)
    bfloat16 = quire.load_model(MODELS / name, weights="bfloat16", num_threads=2)
    assert as_stored.logits(ids).tobytes() == bfloat16.logits(ids, num_threads=2).tobytes()
    assert as_stored.memory_report() == bfloat16.memory_report()


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_no_cut_changes_a_bit(
    instruction_set: str, name: str, reference: Reference, weights: Any
) -> None:
    if not quire.build_info()["chunk_invariant"]:
        pytest.skip(f"chunks may change bits of attention on {instruction_set}")
    if weights == "float32":
        pytest.skip("attention over float32 keys is cut by the number of queries")
    model = quire.load_model(MODELS / name, weights=weights)
    ids = reference["long_ids"][:200]
    whole = model.logits(ids, num_threads=1)
    for at_once in (1, 7, 64, 199):
        cut = model.logits(ids, max_batch_tokens=at_once, num_threads=1 + at_once % 3)
        assert cut.tobytes() == whole.tobytes(), at_once


def test_what_a_model_says_of_itself(exact: quire.Model, name: str) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    assert exact.config == config
    assert exact.vocab_size == config["vocab_size"]
    assert exact.num_layers == config["num_hidden_layers"]
    assert exact.max_positions == config["max_position_embeddings"]
    assert exact.stop_token_ids == [0]
    assert Path(exact.path) == MODELS / name
    assert config["architectures"][0] in repr(exact)


def test_memory_report(exact: quire.Model, name: str) -> None:
    """Every number of the file, once: the embedding is the output's weight too."""
    tensors = read_tensors(MODELS / name / "model.safetensors")
    report = exact.memory_report()
    (line,) = report
    assert (line["stored"], line["packed"]) == ("BF16", "float32")
    assert line["tensors"] == len(tensors)
    assert line["numbers"] == sum(tensor.size for tensor in tensors.values())
    assert 4 * line["numbers"] <= line["bytes"] < 4.1 * line["numbers"]


def test_an_output_of_its_own(tmp_path: Path, reference: Reference, name: str) -> None:
    """Where embedding and output are two, the first is kept as it is stored."""
    folder = changed(tmp_path, name, config={"tie_word_embeddings": False})
    tensors = read_tensors(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_tensors(folder / "model.safetensors", tensors)
    ids = reference["p1_ids"]
    tied = quire.load_model(MODELS / name).logits(ids)
    assert quire.load_model(folder).logits(ids).tobytes() == tied.tobytes()
    report = quire.load_model(folder, weights="int8").memory_report()
    assert {(line["stored"], line["packed"]) for line in report} == {
        ("BF16", "bfloat16"),  # the embedding
        ("BF16", "int8"),
        ("BF16", "float32"),  # norms
    }


def changed(folder: Path, name: str, *, config: dict[str, Any] | None = None) -> Path:
    """A copy of a model, with other values in its configuration; None takes one out."""
    shutil.copy(MODELS / name / "model.safetensors", folder)
    values = json.loads((MODELS / name / "config.json").read_text())
    values.update(config or {})
    values = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_stop_tokens_of_chats(tmp_path: Path) -> None:
    folder = changed(tmp_path, "pystdlib-llama")
    (folder / "generation_config.json").write_text('{"eos_token_id": [9, 3]}')
    assert quire.load_model(folder).stop_token_ids == [0, 3, 9]


def test_the_text_of_a_model_of_several_inputs(tmp_path: Path, reference: Reference) -> None:
    """Its configuration stands in a part of its own, and its tensors under another name."""
    name = "pystdlib-qwen3_5"
    shutil.copy(MODELS / name / "model.safetensors", tmp_path)
    text = json.loads((MODELS / name / "config.json").read_text())
    del text["architectures"]
    tied = text.pop("tie_word_embeddings")
    config = {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    tensors = read_tensors(tmp_path / "model.safetensors")
    renamed = {
        key.replace("model.", "model.language_model.", 1): value for key, value in tensors.items()
    }
    write_tensors(tmp_path / "model.safetensors", renamed)
    ids = reference["p2_ids"]
    expected = quire.load_model(MODELS / name).logits(ids)
    assert quire.load_model(tmp_path).logits(ids).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["BertModel"]},
            "got BertModel as architectures in .*config.json, expected one of LlamaForCausalLM, ",
        ),
        ({"architectures": []}, "got an array as architectures in .*, expected an array of names"),
        ({"hidden_size": None}, "got nothing as hidden_size in .*config.json, expected a whole"),
        ({"num_hidden_layers": 0}, r"got 0 as num_hidden_layers in .*, expected 1 to 2\^30"),
        ({"rms_norm_eps": "small"}, "got a string as rms_norm_eps in .*, expected a number"),
        ({"num_key_value_heads": 3}, "got 3 as num_key_value_heads in .*, expected a divisor of"),
        ({"vocab_size": 2**31}, r"got 2147483648 as vocab_size in .*, expected 1 to 2\^30"),
        ({"head_dim": 63}, "got 1 as partial_rotary_factor in .* even number of the 63, head_dim"),
        (
            {"rope_parameters": {"rope_theta": 0}},
            "rope_parameters of .*config.json: rope_theta: got 0, expected a finite number",
        ),
        ({"layer_types": ["full_attention"]}, "got 1 layer as layer_types in .*, expected 6, num_"),
        (
            {"layer_types": ["full_attention"] * 5 + ["chunked_attention"]},
            "got chunked_attention as layer_types in .*, expected full_attention or sliding_att",
        ),
        (
            {"layer_types": ["sliding_attention"] * 6},
            "got nothing as sliding_window in .*, expected a whole number",
        ),
        ({"hidden_act": "relu"}, "got relu as hidden_act in .*, expected silu, gelu or"),
        (
            {"rope_parameters": {"rope_type": "spiral"}},
            'rope_type in rope_parameters of .*config.json: got "spiral", expected',
        ),
        (
            {"intermediate_size": 700},
            r"with model.layers.0.mlp.gate_proj.weight of shape \[704, 256\], expected \[700, ",
        ),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = changed(tmp_path, "pystdlib-llama", config=config)
    with pytest.raises(ValueError, match=f"^load_model: path: .*{message}"):
        quire.load_model(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"linear_num_key_heads": 3},
            "got 8 as linear_num_value_heads in .*, expected a multiple of 3, linear_num_key_heads",
        ),
        ({"layer_types": ["full_attention"] * 3}, "got 3 layers as layer_types in .*, expected 4"),
        (
            {"layer_types": ["sliding_attention"] * 4},
            "got sliding_attention as layer_types in .*, expected full_attention or linear_att",
        ),
        # says at once what is missing, without a list of a thousand million layers
        (
            {"num_hidden_layers": 2**30, "layer_types": None},
            "without the tensor model.layers.4.input_layernorm.weight",
        ),
    ],
)
def test_a_wrong_configuration_of_recurrent_layers(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = changed(tmp_path, "pystdlib-qwen3_5", config=config)
    with pytest.raises(ValueError, match=f"^load_model: path: .*{message}"):
        quire.load_model(folder)


@pytest.mark.parametrize(
    ("missing", "listed"),
    [
        ("model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.gate_proj.weight"),
        ("model.norm.weight", "model.embed_tokens.weight"),
    ],
)
def test_a_missing_tensor(tmp_path: Path, missing: str, listed: str) -> None:
    folder = changed(tmp_path, "pystdlib-llama")
    tensors = read_tensors(folder / "model.safetensors")
    del tensors[missing]
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(
        ValueError, match=r"^load_model: path: got .* without the tensor "
    ) as caught:
        quire.load_model(folder)
    assert missing in str(caught.value)
    assert listed in str(caught.value).split("there are")[1]
    assert "layers.3" not in str(caught.value)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="load_model: path: open: No such file"):
        quire.load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r'^load_model: weights: got "int3", expected float32, '):
        quire.load_model(MODELS / NAMES[0], weights="int3")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^load_model: path: got int"):
        quire.load_model(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model\.safetensors: a safetensors file, expected the f"):
        quire.load_model(MODELS / NAMES[0] / "model.safetensors")
    (tmp_path / "a.gguf").write_text("of another kind")
    with pytest.raises(ValueError, match=r"load_model: path: got .*a\.gguf: another beginning"):
        quire.load_model(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        ([], {}, ValueError, "token_ids: got 0 tokens, expected 1 to 8192"),
        ([0] * 8193, {}, ValueError, "token_ids: got 8193 tokens, expected 1 to 8192"),
        ([1, 4096], {}, IndexError, "token_ids: got 4096 at 1, expected 0 to 4095"),
        ([-1], {}, IndexError, "token_ids: got -1 at 0, expected 0 to 4095"),
        ([1.5], {}, TypeError, "token_ids: got float"),
        (np.zeros((1, 2), np.int64), {}, ValueError, r"token_ids: got shape \[1, 2\]"),
        ("text", {}, TypeError, "token_ids: got str at index 0, expected an int"),
        ([1], {"max_batch_tokens": 0}, ValueError, "max_batch_tokens: got 0, expected >= 1"),
        ([1], {"num_threads": 0}, ValueError, "num_threads: got 0"),
    ],
)
def test_wrong_prompts(
    exact: quire.Model, ids: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^Model.logits: {message}"):
        exact.logits(ids, **options)


def test_numbers_that_cannot_be_packed(tmp_path: Path) -> None:
    folder = changed(tmp_path, "pystdlib-llama")
    tensors = read_tensors(folder / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    weight = tensors[name].copy()
    weight[3, 5] = np.nan
    tensors[name] = weight
    write_tensors(folder / "model.safetensors", tensors)
    message = rf"^load_model: path: .*: {name}: w: got nan at \[3, 5\], expected finite numbers"
    with pytest.raises(ValueError, match=message):
        quire.load_model(folder, weights="int8")
    # float formats have a NaN, and it is the model's own
    assert np.isnan(quire.load_model(folder).logits([5, 1])).all()


def test_subnormal_and_large_weights_do_not_matter(tmp_path: Path) -> None:
    """A bfloat16 file is read exactly, whatever its numbers."""
    folder = changed(tmp_path, "pystdlib-llama")
    tensors = read_tensors(folder / "model.safetensors")
    row = tensors["model.embed_tokens.weight"].copy()
    row[5] = np.float32(1e-40)
    row[6] = np.float32(1e30)
    tensors["model.embed_tokens.weight"] = row
    write_tensors(folder / "model.safetensors", tensors)
    logits = quire.load_model(folder).logits([5, 1])
    assert row.dtype == ml_dtypes.bfloat16
    assert np.isfinite(logits).all()
