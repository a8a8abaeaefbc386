"""quire generate, chat and perplexity: what goes where, of an engine that is told what to say."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, FakeModel
from text_cases import CHATML, LLAMA

import quire
from quire import cli
from quire.text import Tokenizer, load_tokenizer

tokenizers: Any = pytest.importorskip("tokenizers")


class Fakes:
    """What takes the place of load_model and Engine, and what they were called with."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer | None = load_tokenizer(LLAMA)
        self.answers: list[str] = []
        self.interrupt_at: int | None = None
        self.loaded: tuple[str, dict[str, Any]] | None = None
        self.engines: list[FakeEngine] = []

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]

    def load_model(self, path: str, **options: Any) -> FakeModel:
        self.loaded = (path, options)
        return FakeModel(self.tokenizer)

    def make_engine(self, model: FakeModel, **options: Any) -> FakeEngine:
        self.engines.append(FakeEngine(model, self.answers, **options))
        self.engine.interrupt_at = self.interrupt_at
        return self.engine


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    made = Fakes()
    monkeypatch.setattr(quire, "load_model", made.load_model, raising=False)
    monkeypatch.setattr(quire, "Engine", made.make_engine, raising=False)
    return made


def with_template(template: str) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_file(str(LLAMA / "tokenizer.json"))
    return Tokenizer(backend, chat_templates={"default": template})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_prompt(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers = [" x + 1  # é🙂\n"]
    arguments = ["--max-tokens", "50", "--temperature", "0.5", "--top-k", "9", "--top-p", "0.9"]
    arguments += ["--min-p", "0.1", "--seed", "7", "--stop", "a\n", "--stop", "b"]
    more = ["--weights", "int8", "--num-threads", "2"]
    assert cli.main(["generate", "folder", "def f(x): return", *arguments, *more]) == 0
    assert capsys.readouterr().out == " x + 1  # é🙂\n\n"
    assert fakes.loaded == ("folder", {"weights": "int8", "num_threads": 2})
    assert fakes.engine.options == {"max_sequences": 1, "num_threads": 2}
    assert fakes.engine.requests[0].options == {
        "max_tokens": 50,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["a\n", "b"],
    }


def test_words_come_one_by_one(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.answers = ["one two three"]
    written: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "builtins.print",
        lambda *text, **_: written.append((fakes.engine.steps, "".join(text))),
    )
    assert cli.main(["generate", "folder", "def"]) == 0
    steps = [step for step, text in written[:-1] if text]
    assert len(steps) >= 3
    assert steps == sorted(set(steps))
    assert "".join(text for _, text in written) == "one two three"


def test_several_prompts_share_steps(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.answers = ["a longer answer than the others", "b", " c"]
    assert cli.main(["generate", "folder", "first", "second", "third"]) == 0
    assert capsys.readouterr().out == (
        "> first\na longer answer than the others\n\n> second\nb\n\n> third\n c\n\n"
    )
    assert fakes.engine.options["max_sequences"] == 3
    assert fakes.engine.steps == max(len(request.token_ids) for request in fakes.engine.requests)


def test_json(
    fakes: Fakes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.answers = ["é stop here", "b b b b b b b b"]
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    arguments = ["--json", "--stop", " stop", "--max-tokens", "5"]
    assert cli.main(["generate", "folder", "def", "-", *arguments]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in found] == ["é", "b b b b b"]
    assert [answer["finish_reason"] for answer in found] == ["stop", "length"]
    assert [answer["prompt"] for answer in found] == ["def", "from a pipe"]
    assert found[0]["num_prompt_tokens"] == 1
    assert found[1]["token_ids"] == fakes.engine.requests[1].token_ids


def test_progress_of_a_long_prompt_is_on_a_terminal_alone(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quire.commands.terminal._PATIENCE_SECONDS", -1.0)
    fakes.answers = ["answer"]
    error = Terminal()
    monkeypatch.setattr("sys.stderr", error)
    assert cli.main(["generate", "folder", "def f(x): return x" * 9]) == 0
    assert "] 1/" in error.getvalue()
    assert "tokens of the prompt\r\x1b[K" in error.getvalue()
    fakes.answers = ["answer"]
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert cli.main(["generate", "folder", "def f(x): return x" * 9]) == 0
    assert capsys.readouterr().out == "answer\nanswer\n"


def test_seconds_tick_on_a_terminal_while_a_model_is_loaded(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quire.commands.terminal._PATIENCE_SECONDS", 0.01)
    fakes.answers = ["answer"]
    error = Terminal()
    monkeypatch.setattr("sys.stderr", error)
    load_model = fakes.load_model

    def slow(path: str, **options: Any) -> FakeModel:
        while "loading folder, 0 s" not in error.getvalue():
            time.sleep(0.01)
        return load_model(path, **options)

    monkeypatch.setattr(quire, "load_model", slow)
    assert cli.main(["generate", "folder", "def"]) == 0
    assert "\r\x1b[K" in error.getvalue()  # and are gone before the answer
    assert capsys.readouterr().out == "answer\n"


def chat(fakes: Fakes, monkeypatch: pytest.MonkeyPatch, *lines: str | type, more: Any = ()) -> int:
    """Types the lines; an exception is what Ctrl-C or Ctrl-D raises where a line is read."""
    fakes.tokenizer = fakes.tokenizer and with_template(CHATML)
    typed = iter([*lines, EOFError])

    def read(prompt: str = "") -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    return cli.main(["chat", "folder", *more])


def prompts(fakes: Fakes) -> list[str]:
    tokenizer = fakes.engine.tokenizer
    assert tokenizer is not None
    return [tokenizer.decode(request.prompt_ids) for request in fakes.engine.requests]


def test_a_conversation(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers = ["Hello.", "Four.", "New."]
    lines = ("Hi", "  ", "2 + 2?", "/new", "again", "/exit", "not read")
    more = ["--system", "Be brief."]
    assert chat(fakes, monkeypatch, *lines, more=more) == 0
    assert capsys.readouterr().out == "Hello.\nFour.\nNew.\n"
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    first = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    second = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    third = "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    assert prompts(fakes) == [
        system + first,
        system + first + "Hello.<|im_end|>\n" + second,
        system + third,
    ]


def test_an_interrupted_answer_stays_as_far_as_it_came(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers = ["one two three four five six", "Yes."]
    fakes.interrupt_at = 4
    assert chat(fakes, monkeypatch, "Count", "Go on") == 0
    first, second = fakes.engine.requests
    assert (first.finish_reason, second.finish_reason) == ("cancelled", "stop")
    assert 0 < len(first.text) < len("one two three four five six")
    assert capsys.readouterr().out == f"{first.text}\nYes.\n"
    assert f"assistant\n{first.text}<|im_end|>" in prompts(fakes)[1]


def test_an_interrupt_while_typing_ends_nothing_on_a_terminal(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.answers = ["Hello."]
    monkeypatch.setattr("sys.stdin", Terminal())
    assert chat(fakes, monkeypatch, KeyboardInterrupt, "Hi") == 0
    assert capsys.readouterr().out == "\n(Ctrl-D or /exit ends)\nHello.\n\n"


def test_a_conversation_that_outgrows_the_model_goes_on(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeModel, "max_positions", 100)
    fakes.answers = ["Yes.", "No."]
    assert chat(fakes, monkeypatch, "Hi", "too long " * 40, "more") == 0
    out, err = capsys.readouterr()
    assert out == "Yes.\nNo.\n"
    assert "the model has 100 positions: /new begins another conversation" in err
    assert [p.count("<|im_start|>user") for p in prompts(fakes)] == [1, 2]
    for request in fakes.engine.requests:  # what is left of the positions is the answer's
        assert request.options["max_tokens"] == 100 - len(request.prompt_ids)


def test_a_model_that_cannot_chat_says_so(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "folder"]) == 2
    assert "path: got folder without a chat template" in capsys.readouterr().err
    fakes.tokenizer = None
    for command in (["chat", "folder"], ["generate", "folder", "Hi"]):
        assert cli.main(command) == 2
        assert "got folder without a tokenizer" in capsys.readouterr().err


def test_perplexity(fakes: Fakes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text("def f(x):\n    return x + 1\n" * 20, encoding="utf-8")
    arguments = ["perplexity", "folder", str(file), "--context", "100", "--stride", "40"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["context"], found["stride"]) == (100, 40)
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"perplexity {found['perplexity']:.4f}, {found['nats']:.6f} nats a token")
    assert f"over {found['num_tokens']} tokens; {found['num_windows']} windows of 100" in out
    assert cli.main([*arguments[:3], "--context", "0"]) == 2
    assert "perplexity: context: got 0, expected 2 to 4096" in capsys.readouterr().err
    file.write_bytes(b"\xff")
    assert cli.main(arguments) == 2
    assert f"file: got byte 0xff at 0 of {file}, expected text in UTF-8" in capsys.readouterr().err
