"""What a model's weights take, as a table in text and in a notebook."""

from __future__ import annotations

import re

from text_cases import LLAMA

from quire import load_model
from quire.memory_report import MemoryReport

LINES = [
    {"stored": "Q4_1", "packed": "int4", "tensors": 210, "numbers": 1000, "bytes": 625},
    {"stored": "<F32>", "packed": "float32", "tensors": 61, "numbers": 3000, "bytes": 12000},
    {"stored": "Q8_0", "packed": "int4", "tensors": 1, "numbers": 2000, "bytes": 1250},
]
TABLE = """\
stored  in memory  tensors  numbers   bytes  bits a number
Q4_1    int4           210    1,000     625           5.00
<F32>   float32         61    3,000  12,000          32.00
Q8_0    int4             1    2,000   1,250           5.00
all                    272    6,000  13,875          18.50"""


def test_it_is_a_list_and_prints_as_a_table() -> None:
    report = MemoryReport(LINES)
    assert report == LINES
    assert report.total_bytes == 13875
    assert str(report) == repr(report) == TABLE
    assert MemoryReport([]).total_bytes == 0
    assert str(MemoryReport([])).splitlines()[1].split() == ["all", "0", "0", "0"]


def test_html() -> None:
    html = MemoryReport(LINES)._repr_html_()
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert cells[:6] == ["Q4_1", "int4", "210", "1,000", "625", "5.00"]
    assert "&lt;F32&gt;" in cells
    assert "<F32>" not in html
    # the bar adds up what is in the same format in memory
    assert re.findall(r"<title>(\w+) (\d+)</title>", html) == [
        ("int4", "1875"),
        ("float32", "12000"),
    ]
    assert len(html) < 4000


def test_of_a_model() -> None:
    report = load_model(LLAMA, weights="int8").memory_report()
    assert isinstance(report, MemoryReport)
    assert {(line["stored"], line["packed"]) for line in report} >= {("BF16", "int8")}
    assert report.total_bytes == sum(line["bytes"] for line in report)
    assert "bytes of weights" in report._repr_html_()


def test_the_tokenizer_of_a_model_is_made_once() -> None:
    model = load_model(LLAMA)
    assert model.tokenizer is not None
    assert model.tokenizer is model.tokenizer
    assert model.tokenizer.encode("def") == [522]
