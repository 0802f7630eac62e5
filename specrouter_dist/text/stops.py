"""Stop strings in a growing text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from specrouter_dist.text.detokenizer import Detokenizer


class StopFinder:
    """Finds the first stop string to be complete; holds back text that could begin one."""

    def __init__(self, stop: Sequence[str]) -> None:
        """``stop``: the strings, none of them empty."""
        self._stop = tuple(stop)
        self._held = ""

    def push(self, piece: str, *, may_stop: bool = True) -> tuple[str, str | None]:
        """The text that is certain not to be part of a stop, and the stop that was found.

        Of stops that are complete within ``piece`` the one that ends first counts, then the
        longer one. A stop that is complete while ``may_stop`` is false is passed over.
        """
        text = self._held + piece
        if may_stop and (found := self._first_stop(text)):
            start, stop = found
            self._held = ""
            return text[:start], stop
        held = self._length_to_hold(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], None

    def finish(self) -> str:
        """The text that was held back and turned out to begin no stop."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        matches = []
        for stop in self._stop:
            # Only what the newest piece completes: an earlier one was passed over on purpose.
            start = text.find(stop, max(0, len(self._held) - len(stop) + 1))
            if start >= 0:
                matches.append((start + len(stop), start, stop))
        return min(matches)[1:] if matches else None

    def _length_to_hold(self, text: str) -> int:
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0


@dataclass(frozen=True, slots=True)
class TextPiece:
    """What some tokens added to the output."""

    text: str
    """To be shown now; may be empty."""
    num_tokens: int
    """How many of the pushed tokens belong to the output: all, or those up to and including the
    one that completed a stop string."""
    stop: str | None
    """The stop string that ended the output; it is not part of the text."""


class OutputText:
    """The text of one output: detokenised, and cut at the first stop string."""

    def __init__(
        self, detokenizer: Detokenizer, stop: Sequence[str] = (), *, min_tokens: int = 0
    ) -> None:
        """No stop string ends the output before ``min_tokens`` tokens."""
        self._detokenizer = detokenizer
        self._finder = StopFinder(stop) if stop else None
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._stopped = False

    def push(self, tokens: Iterable[int]) -> TextPiece:
        """The text that ``tokens`` add. Not to be called again once a stop was found."""
        assert not self._stopped
        tokens = list(tokens)
        if self._finder is None:
            self._num_tokens += len(tokens)
            return TextPiece(self._detokenizer.push(tokens), len(tokens), None)
        parts = []
        for i, token in enumerate(tokens):
            self._num_tokens += 1
            may_stop = self._num_tokens >= self._min_tokens
            part, stop = self._finder.push(self._detokenizer.push([token]), may_stop=may_stop)
            parts.append(part)
            if stop is not None:
                self._stopped = True
                return TextPiece("".join(parts), i + 1, stop)
        return TextPiece("".join(parts), len(tokens), None)

    def finish(self) -> str:
        """The rest of the text when the output ends: nothing after a stop string."""
        if self._stopped:
            return ""
        held = self._finder.finish() if self._finder else ""
        return held + self._detokenizer.finish()
