"""quire.torch: Quire as operators of PyTorch, which torch.compile takes a model with."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import make_problem

import quire

torch = pytest.importorskip("torch")
quire_torch: Any = pytest.importorskip("quire.torch")
as_tensor = quire_torch.as_tensor
operators = torch.ops.quire

WRITTEN = ("k_cache", "v_cache", "k_scale", "v_scale", "k_open", "v_open")


def problem_of(dtype: str = "float32", **sizes: Any) -> tuple[Any, list[Any]]:
    """A problem of two sequences, and paged_attention's arguments as tensors."""
    problem = make_problem([37, 9], [3, 1], dtypes=(dtype, dtype, dtype), **sizes)
    floats = [as_tensor(array) for array in problem.arguments[:3]]
    return problem, floats + [torch.from_numpy(array) for array in problem.arguments[3:]]


def bits(array: Any) -> bytes:
    if isinstance(array, torch.Tensor):
        array = array.contiguous().view(torch.uint8).numpy()
    return bytes(array.tobytes())


def quantised_arguments(pool: quire.BlockPool) -> dict[str, Any]:
    """write_kv's arguments, of 16 rows of a pool's second block."""
    rows = torch.from_numpy(np.random.default_rng(1).standard_normal((16, 2, 8), np.float32))
    arguments = {"k": rows, "v": 2 * rows, "slot_mapping": torch.arange(16, 32)}
    for name in ("k_cache", "v_cache", "k_scale", "v_scale"):
        arguments[name] = as_tensor(getattr(pool, name)())
    return arguments


class Layer(torch.nn.Module):  # type: ignore[misc]
    """One layer of attention over a paged cache, with projections of its own around it."""

    def __init__(self, operator: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(32, 64 + 2 * 32)
        self.operator = operator

    def forward(
        self, x: Any, k_cache: Any, v_cache: Any, slots: Any, tables: Any, lengths: Any
    ) -> Any:
        q, k, v = self.project(x).split([64, 32, 32], dim=-1)
        q, k, v = q.view(-1, 4, 16), k.view(-1, 2, 16), v.view(-1, 2, 16)
        if self.operator:
            operators.write_kv(k, v, k_cache, v_cache, slots)
            out, lse = operators.paged_attention(q, k_cache, v_cache, tables, lengths)
            outs, lses = torch.stack([out, out]), torch.stack([lse, lse])
            merged, _ = operators.merge_states(outs, lses)
        else:
            quire.write_kv(k, v, k_cache, v_cache, slots)
            out, lse = quire.paged_attention(q, k_cache, v_cache, tables, lengths, return_lse=True)
            merged, _ = quire.merge_states(torch.stack([out, out]), torch.stack([lse, lse]))
        return torch.tanh(merged.reshape(x.shape[0], 64))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_model_is_the_model(backend: str, dtype: str) -> None:
    """Four steps of two sequences, of which each writes what the next ones read."""
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        pool = quire.BlockPool(4, num_kv_heads=2, head_dim=16, dtype=dtype)
        caches = as_tensor(pool.k_cache()), as_tensor(pool.v_cache())
        layer: Any = Layer(operator=compiled)
        if compiled:
            layer = torch.compile(layer, fullgraph=True, backend=backend)
        tables = torch.tensor([[2], [1]], dtype=torch.int32)
        generator = torch.Generator().manual_seed(1)
        outs = []
        with torch.no_grad():
            for step in range(4):
                x = torch.randn(2, 32, generator=generator)
                slots = torch.tensor([32 + step, 16 + step])
                outs.append(layer(x, *caches, slots, tables, torch.tensor([step + 1, step + 1])))
        results.append((torch.stack(outs), pool.k_cache().copy(), pool.v_cache().copy()))
    (out, *caches_), (compiled_out, *compiled_caches) = results
    assert out.abs().min() > 0
    assert bits(out) == bits(compiled_out)
    assert [bits(c) for c in caches_] == [bits(c) for c in compiled_caches]
    assert np.count_nonzero(results[0][1]) == 4 * 2 * 2 * 16


def test_opcheck_of_paged_attention() -> None:
    for dtype in ("float32", "bfloat16"):
        problem, arguments = problem_of(dtype, v_head_dim=32)
        options = {
            "cu_seqlens_q": torch.from_numpy(problem.cu_seqlens_q),
            "sliding_window": 20,
            "softcap": 5.0,
            "sinks": torch.zeros(4),
            "scale": 0.3,
        }
        torch.library.opcheck(operators.paged_attention.default, arguments, options)


def test_opcheck_of_write_kv_and_merge_states() -> None:
    pool = quire.BlockPool(4, num_kv_heads=2, head_dim=8, dtype="int8")
    arguments = quantised_arguments(pool)
    torch.library.opcheck(operators.write_kv.default, (), arguments)
    keys_alone = {**arguments, "v": None, "v_cache": None, "v_scale": None}
    torch.library.opcheck(operators.write_kv.default, (), keys_alone)
    outs, lses = torch.randn(3, 2, 4, 8, dtype=torch.bfloat16), torch.randn(3, 2, 4)
    torch.library.opcheck(operators.merge_states.default, (outs, lses))
    torch.library.opcheck(operators.merge_states.default, (outs[:, 0, 0], lses[:, 0, 0]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_operators_take_values_within_keys(dtype: str) -> None:
    pool = quire.BlockPool(4, num_kv_heads=1, head_dim=24, v_head_dim=16, dtype=dtype, shared=True)
    table = quire.BlockTable(pool)
    rows = torch.from_numpy(np.random.default_rng(2).standard_normal((20, 1, 24), np.float32))
    k_cache, v_cache = as_tensor(pool.k_cache()), as_tensor(pool.v_cache())
    assert v_cache.data_ptr() == k_cache.data_ptr()
    operators.write_kv(rows, None, k_cache, None, torch.from_numpy(table.extend(20)))
    q = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 4, 24), np.float32))
    tables, lengths = (torch.from_numpy(array) for array in quire.pack_tables([table]))
    out, _ = operators.paged_attention(q, k_cache, v_cache, tables, lengths)
    assert bits(out) == bits(quire.attend(q, [table]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_operators_compute_what_the_functions_do(dtype: str) -> None:
    problem, arguments = problem_of(dtype)
    options: dict[str, Any] = {"causal": False, "scale": 0.2, "num_threads": 1}
    cu_seqlens = problem.cu_seqlens_q
    expected = quire.paged_attention(
        *problem.arguments, cu_seqlens_q=cu_seqlens, return_lse=True, **options
    )
    out, lse = operators.paged_attention(
        *arguments, cu_seqlens_q=torch.from_numpy(cu_seqlens), **options
    )
    assert out.dtype == arguments[0].dtype
    assert [bits(out), bits(lse)] == [bits(array) for array in expected]


def test_options_of_more_than_one_type_have_names_of_their_own() -> None:
    problem, arguments = problem_of("float32")
    lengths = np.diff(problem.cu_seqlens_q)
    tree = np.concatenate([np.tri(n, k=1, dtype=bool).ravel() for n in lengths])
    causal = np.arange(len(lengths)) % 2 == 0
    for plain, options in (
        ({"tree_mask": tree}, {"tree_mask": torch.from_numpy(tree)}),
        (
            {"causal": causal, "sliding_window": (9, 3)},
            {"causal_of_each": torch.from_numpy(causal), "window_sides": [9, 3]},
        ),
    ):
        expected = quire.paged_attention(
            *problem.arguments, cu_seqlens_q=problem.cu_seqlens_q, return_lse=True, **plain
        )
        cu_seqlens = torch.from_numpy(problem.cu_seqlens_q)
        torch.library.opcheck(
            operators.paged_attention.default, arguments, {"cu_seqlens_q": cu_seqlens, **options}
        )
        out, lse = operators.paged_attention(*arguments, cu_seqlens_q=cu_seqlens, **options)
        assert [bits(out), bits(lse)] == [bits(array) for array in expected]


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_quantised_caches(dtype: str) -> None:
    """Queries of bfloat16 over caches and scales that an operator has written."""
    pools = [quire.BlockPool(4, num_kv_heads=2, head_dim=8, dtype=dtype) for _ in range(2)]
    arguments = quantised_arguments(pools[0])
    operators.write_kv(**arguments)
    plain = {name: arguments[name].numpy() for name in ("k", "v", "slot_mapping")}
    views = {n: getattr(pools[1], n)() for n in ("k_cache", "v_cache", "k_scale", "v_scale")}
    quire.write_kv(**plain, **views)
    for name, view in views.items():
        assert bits(getattr(pools[0], name)()) == bits(view)
        assert any(bits(view))
    q = torch.randn(1, 4, 8).bfloat16()
    table, length = torch.tensor([[1]]), torch.tensor([16])
    names = ("k_cache", "v_cache")
    scales = {name: arguments[name] for name in ("k_scale", "v_scale")}
    out, _ = operators.paged_attention(q, *(arguments[n] for n in names), table, length, **scales)
    expected = quire.paged_attention(
        q, views["k_cache"], views["v_cache"], table, length,
        k_scale=views["k_scale"], v_scale=views["v_scale"],
    )  # fmt: skip
    assert out.dtype == torch.bfloat16
    assert bits(out) == bits(expected)


def test_shapes_of_int4_are_known_without_computing() -> None:
    pool = quire.BlockPool(4, num_kv_heads=2, head_dim=16, v_head_dim=8, dtype="int4")
    names = ("k_cache", "v_cache", "k_scale", "v_scale")
    real = {name: as_tensor(getattr(pool, name)()) for name in names}
    rows = torch.randn(16, 2, 16)
    operators.write_kv(rows, rows[..., :8].contiguous(), slot_mapping=torch.arange(16), **real)
    arguments = {
        **real,
        "q": torch.randn(1, 4, 16),
        "block_tables": torch.zeros(1, 1, dtype=torch.int32),
        "seq_lens": torch.tensor([16]),
    }
    torch.library.opcheck(operators.paged_attention.default, (), arguments)
    assert operators.paged_attention(**arguments)[0].shape == (1, 4, 8)


def test_options_are_those_of_the_functions() -> None:
    """A new option of attention or write_kv is to be one of the operator as well."""
    results = {"out", "lse", "return_lse", "return_block_mass"}
    of_other_types = {"causal_of_each": None, "window_sides": None}  # causal and sliding_window
    for name in ("paged_attention", "write_kv", "merge_states"):
        schema = getattr(operators, name).default._schema
        parameters = inspect.signature(getattr(quire, name)).parameters
        wanted = {p.name: p.default for p in parameters.values() if p.name not in results}
        had = {a.name: a.default_value if a.has_default_value() else inspect.Parameter.empty
               for a in schema.arguments}  # fmt: skip
        if name == "paged_attention":
            wanted |= of_other_types
        assert had == wanted
        written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
        assert written == [p for p in had if p in WRITTEN and name == "write_kv"]


def test_what_needs_a_gradient_is_refused_compiled_or_not() -> None:
    torch.compiler.reset()
    _, (q, *others) = problem_of()
    weight = torch.nn.Parameter(torch.ones(()))

    def attention(q: Any) -> Any:
        lengths = torch.tensor([37, 9])
        return operators.paged_attention(q[:2] * weight, *others[:3], lengths)[0].sum()

    with pytest.raises(TypeError, match=r"paged_attention: q: got Tensor that .*gradient"):
        attention(q)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="paged_attention: tensors: got one that needs a gradient"):
        compiled(q)
    with torch.no_grad():
        assert compiled(q) == attention(q)


def test_mistakes_are_named_as_ever() -> None:
    _, (q, *others) = problem_of()
    with pytest.raises(ValueError, match=r"paged_attention: q: got shape \[4, 64\]"):
        operators.paged_attention(q[:, 0], *others)
    with pytest.raises(TypeError, match="merge_states: lses: got bfloat16, expected float32"):
        operators.merge_states(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1).bfloat16())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn"])
def test_as_tensor_is_a_view_that_keeps_the_pool(dtype: str) -> None:
    pool: Any = quire.BlockPool(3, num_kv_heads=2, head_dim=8, num_layers=2, dtype=dtype)
    cache = pool.k_cache(1)
    tensor = as_tensor(cache)
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert tensor.shape == cache.shape
    assert tensor.data_ptr() == cache.ctypes.data
    assert [s * tensor.element_size() for s in tensor.stride()] == list(cache.strides)
    tensor.view(torch.uint8).fill_(7)
    assert (cache.view(np.uint8) == 7).all()
    assert not pool.k_cache(0).view(np.uint8).any()
    del pool, cache
    assert (tensor.view(torch.uint8) == 7).all()


def test_as_tensor_refuses_what_no_tensor_is() -> None:
    rows = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"as_tensor: array: got strides \(-12, 4\)"):
        as_tensor(rows[::-1])
    rows.flags.writeable = False
    with pytest.raises(ValueError, match="as_tensor: array: got a read-only array"):
        as_tensor(rows)
    with pytest.raises(TypeError, match="as_tensor: array: got dtype float64"):
        as_tensor(np.zeros(3))


def test_only_quire_torch_imports_torch() -> None:
    code = """
import sys, numpy as np, quire
quire.merge_states(np.ones((2, 1, 4), np.float32), np.ones((2, 1), np.float32))
assert "torch" not in sys.modules and "jax" not in sys.modules
import quire.torch
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
