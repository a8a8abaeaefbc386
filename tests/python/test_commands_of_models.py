"""quire generate, chat and perplexity as processes, with a small real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_cases import LLAMA

import quire

pytest.importorskip("tokenizers")

TEMPLATE = (
    "{% for message in messages %}# {{ message.role }}\n{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}def answer(self):\n    {% endif %}"
)


# A background job is born without SIGINT.
WITH_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from quire.cli import main
sys.exit(main())
"""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "quire", *map(str, arguments)]


def printed(*arguments: str | Path) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr  # progress is for terminals
    return done.stdout.decode()


def reference() -> Any:
    return np.load(LLAMA / "reference.npz")


def text_of(ids: Any) -> str:
    tokenizer = quire.load_model(LLAMA).tokenizer
    assert tokenizer is not None
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_generate() -> None:
    prompts = [text_of(reference()[f"p{i}_ids"]) for i in range(4)]
    options = ["--max-tokens", "20", "--temperature", "0.8", "--top-p", "0.9", "--seed", "3"]
    found = [
        json.loads(line)
        for line in printed("generate", LLAMA, *prompts, "--json", *options).splitlines()
    ]
    engine = quire.Engine(quire.load_model(LLAMA))
    made = engine.generate(prompts, max_tokens=20, temperature=0.8, top_p=0.9, seed=3)
    assert [answer["token_ids"] for answer in found] == [request.token_ids for request in made]
    assert [answer["text"] for answer in found] == [request.text for request in made]
    assert [answer["num_prompt_tokens"] for answer in found] == [11, 25, 12, 9]
    # alone and as words, it says the same
    assert printed("generate", LLAMA, prompts[0], *options) == made[0].text + "\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    arguments = command("generate", LLAMA, "def f(", "--max-tokens", "200")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_perplexity(tmp_path: Path) -> None:
    ids, nats = reference()["long_ids"], reference()["long_nll"].astype(np.float64)
    file = tmp_path / "text.txt"
    file.write_text(text_of(ids), encoding="utf-8", newline="")
    options = ["--weights", "float32", "--context", "1500", "--stride", "1499", "--json"]
    found = json.loads(printed("perplexity", LLAMA, file, *options))
    assert found["num_tokens"] == len(nats) == 1499
    assert abs(found["nats"] - nats.mean()) < 2e-5


def test_ctrl_c_stops_the_answer_and_not_the_chat(tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / file).symlink_to(LLAMA / file)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    # drawn, so that it does not end by itself: thousands of tokens
    options = ["--max-tokens", "6000", "--temperature", "3", "--seed", "1"]
    chat = subprocess.Popen(
        [sys.executable, "-c", WITH_CTRL_C, "chat", tmp_path, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write(b"Hello\n")
    chat.stdin.flush()
    assert chat.stdout.read(1)  # the answer has begun
    chat.send_signal(signal.SIGINT)
    chat.stdin.write(b"/exit\nnot read\n")
    chat.stdin.flush()
    rest, error = chat.communicate(timeout=300)
    assert chat.returncode == 0, error.decode()
    assert rest.endswith(b"\n")
    assert len(rest) < 6000  # most tokens are several characters
    assert b"Traceback" not in error
    assert not error
