"""Stop strings in a text that comes piece by piece: where one is complete, the text ends before it.

Aho and Corasick, "Efficient string matching: an aid to bibliographic search" (1975): one state a
character, the longest end of the text so far that begins a stop string, so that a character costs
the same however many stop strings there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class StopStrings:
    """Passes text on until a stop string is complete, however the text was cut.

    The first stop string to be complete ends the text, the longest one of several that end
    together; neither it nor what follows is passed on. Text that may yet become one is held back.

    Args:
        stop: the strings; none: all text is passed on.

    Raises:
        TypeError: not strings. ValueError: an empty one.

    Example:
        >>> stops = StopStrings(["</answer>"])
        >>> stops.feed("4</ans"), stops.feed("wer> more"), stops.stopped
        ('4', '', '</answer>')
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        if isinstance(stop, str):
            raise TypeError(f"StopStrings: stop: got the string {stop!r}, expected a list of them")
        #: The stop string that ended the text; None as long as none did.
        self.stopped: str | None = None
        self._strings = list(stop)
        self._next: list[dict[str, int]] = [{}]  # of each state, by character
        self._depth = [0]  # characters of the stop string's beginning that the state stands for
        self._complete = [0]  # characters of the longest stop string that ends here
        for i, string in enumerate(self._strings):
            self._add(i, string)
        self._fall_back = self._fallen_back()
        self._state = 0
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be passed on now that the text has gone on with these characters.

        Returns:
            What was held back before and what has come, without what is held back now; "" after a
            stop string.
        """
        if self.stopped is not None:
            return ""
        known = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            self._state = self._after(self._state, character)
            length = self._complete[self._state]
            if length:
                self.stopped = known[end - length : end]
                self._held = ""
                return known[: end - length]
        kept = len(known) - self._depth[self._state]
        self._held = known[kept:]
        return known[:kept]

    def finish(self) -> str:
        """What was held back, as no more text comes."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _add(self, place: int, string: str) -> None:
        if not isinstance(string, str):
            raise TypeError(
                f"StopStrings: stop[{place}]: got {type(string).__name__}, expected a string"
            )
        if not string:
            raise ValueError(f"StopStrings: stop[{place}]: got an empty string, expected text")
        state = 0
        for character in string:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._complete.append(0)
            state = self._next[state][character]
        self._complete[state] = len(string)

    def _fallen_back(self) -> list[int]:
        """Of each state the one of the next shorter end, the shorter ones first."""
        fall_back = [0] * len(self._next)
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self._next[state].items():
                shorter = fall_back[state]
                while shorter and character not in self._next[shorter]:
                    shorter = fall_back[shorter]
                fall_back[following] = self._next[shorter].get(character, 0)
                waiting.append(following)
            if not self._complete[state]:
                self._complete[state] = self._complete[fall_back[state]]
        return fall_back

    def _after(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fall_back[state]
        return self._next[state].get(character, 0)
