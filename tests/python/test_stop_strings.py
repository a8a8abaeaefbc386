"""Stop strings: the same text however it was cut, as a plain search finds it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from quire.text import StopStrings


def plain_search(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, the longest of those; and that."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def passed_on(stops: StopStrings, pieces: list[str]) -> str:
    return "".join([stops.feed(piece) for piece in pieces] + [stops.finish()])


@pytest.mark.parametrize("seed", range(8))
def test_random_cuts_of_random_texts(seed: int) -> None:
    random = np.random.default_rng(seed)
    met = 0
    for _ in range(300):
        # two letters: stop strings begin, end and lie within one another
        letters = ["ab", "abc", "aé日🙂"][random.integers(3)]
        made = ["".join(random.choice(list(letters), random.integers(1, 6))) for _ in range(4)]
        stops = made[: random.integers(0, 4)]
        text = "".join(random.choice(list(letters), random.integers(0, 40)))
        cuts = np.sort(random.integers(0, len(text) + 1, random.integers(0, 12)))
        ends = [0, *cuts.tolist(), len(text)]
        found = StopStrings(stops)
        expected, stopped = plain_search(text, stops)
        assert passed_on(found, [text[begin:end] for begin, end in pairwise(ends)]) == expected
        assert found.stopped == stopped
        met += stopped is not None
    assert 50 < met < 300


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["</s>", "\n\nUser:"])
    assert [stops.feed(piece) for piece in ("hi<", "/s", "a\n", "\nUs", "e", "d")] == [
        "hi",
        "",
        "</sa",
        "",
        "",
        "\n\nUsed",
    ]
    assert stops.finish() == ""
    assert stops.feed("x</") == "x"
    assert stops.finish() == "</"
    assert stops.stopped is None


def test_nothing_follows_a_stop_string() -> None:
    stops = StopStrings(("b",))
    assert stops.feed("abc") == "a"
    assert stops.feed("more") == ""
    assert stops.finish() == ""
    assert stops.stopped == "b"


def test_the_longest_of_those_that_end_together() -> None:
    stops = StopStrings(["c", "abc", "bc"])
    assert stops.feed("xab") == "x"
    assert stops.feed("c") == ""
    assert stops.stopped == "abc"


@pytest.mark.parametrize(
    ("stop", "error", "message"),
    [
        ("end", TypeError, r"stop: got the string 'end', expected a list of them"),
        (["a", ""], ValueError, r"stop\[1\]: got an empty string"),
        (["a", 3], TypeError, r"stop\[1\]: got int, expected a string"),
    ],
)
def test_what_is_refused(stop: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StopStrings(stop)
