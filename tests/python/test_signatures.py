"""What inspect and help show of the C++ module is what its types promise."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest

import quire
from quire import _core, ops

PUBLIC = {name: getattr(module, name) for module in (ops, quire) for name in module.__all__}
# behind quire.Engine and quire.Request, which are Python's
PUBLIC |= {name: getattr(_core, name) for name in ("TokenEngine", "TokenRequest")}
STUB = ast.parse(Path(_core.__file__).with_name("_core.pyi").read_text())


def stub_parameters(function: ast.FunctionDef) -> list[tuple[str, Any, bool]]:
    """(name, default, keyword only) of each parameter; ... for none."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [(a, d, False) for a, d in zip(plain, defaults, strict=True)]
    pairs += [
        (a, d, True) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [(a.arg, ... if d is None else ast.literal_eval(d), only) for a, d, only in pairs]


def stub_options() -> set[str]:
    """Names of the options that attend and paged_attention have alike, whatever the defaults."""
    options = next(n for n in STUB.body if isinstance(n, ast.ClassDef) and n.name == "_Options")
    return {
        node.target.id
        for node in options.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def real_parameters(function: Any) -> list[tuple[str, Any, bool]]:
    return [
        (p.name, ... if p.default is p.empty else p.default, p.kind is p.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    ]


def public_functions() -> list[tuple[str, Any, ast.FunctionDef]]:
    found = []
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef) and node.name in PUBLIC:
            found.append((node.name, PUBLIC[node.name], node))
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.decorator_list:
                cls = PUBLIC.get(node.name)
                if method.name == "__init__" or not method.name.startswith("_"):
                    found.append((f"{node.name}.{method.name}", getattr(cls, method.name), method))
    return found


FUNCTIONS = public_functions()


@pytest.mark.parametrize(
    ("function", "stub"), [case[1:] for case in FUNCTIONS], ids=[case[0] for case in FUNCTIONS]
)
def test_signature(function: Any, stub: ast.FunctionDef) -> None:
    differ = {"return_lse", "return_block_mass", "residual"}  # an overload has no default there
    if stub.args.kwarg is not None:
        assert stub_options() <= {name for name, _, only in real_parameters(function) if only}
        differ |= stub_options()
    real = [p for p in real_parameters(function) if p[0] not in differ]
    typed = [p for p in stub_parameters(stub) if p[0] not in differ]
    assert sorted(real) == sorted(typed)
    assert [p for p in real if not p[2]] == [p for p in typed if not p[2]]  # in this order
    assert len(inspect.getdoc(function) or "") > 40


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_help_shows_the_signature_and_nothing_of_pybind11(name: str) -> None:
    thing = PUBLIC[name]
    shown = pydoc.plain(pydoc.render_doc(thing))
    head = shown.split("Method resolution order")[0]
    assert "pybind11" not in head.replace("(pybind11_builtins.pybind11_object)", "")
    if inspect.isroutine(thing):
        assert f"\n{name}{inspect.signature(thing)}\n" in shown
    assert "detail_function_record" not in shown


def test_classes_show_their_constructors() -> None:
    assert str(inspect.signature(quire.BlockTable)) == "(pool)"
    assert "num_kv_heads, head_dim, v_head_dim=None" in str(inspect.signature(quire.BlockPool))


CLASSES = [
    quire.BlockPool,
    quire.BlockTable,
    quire.Step,
    quire.PoolStats,
    quire.PrefixCache,
    quire.PrefixCacheStats,
    quire.Model,
    ops.Weight,
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_public_name_is_typed_and_documented(cls: type) -> None:
    stub = next(n for n in STUB.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    typed = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in vars(cls) if not name.startswith("_")}
    assert {name for name in typed if not name.startswith("_")} == public
    assert cls.__doc__
    for name in public:
        assert len(getattr(cls, name).__doc__) > 15, name


def test_what_a_pool_is_made_of_is_explained() -> None:
    doc = inspect.getdoc(quire.BlockPool) or ""
    for name in inspect.signature(quire.BlockPool).parameters:
        assert re.search(rf"\b{name}(, \w+)*: ", doc), name
    assert "num_blocks: of each layer" in doc
    assert "num_layers: layers of the model" in doc
