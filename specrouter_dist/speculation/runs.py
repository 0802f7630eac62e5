"""How many tokens a target draws for requests without drafters before its worker looks at its mail.

What a turn costs beside its forwards is the same for eight tokens and for one.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.stage import Stage

_MOST_RUN_US = 10_000.0
"""Nobody sees that tokens come so far apart, and a new request waits half of it."""
_MOST_RUN_TOKENS = 8
_NEWEST = 0.2
"""Weight of the newest time."""


def run_tokens(token_us: float) -> int:
    """Tokens that are drawn in one step if each takes so long: as many as there is time for, but a
    power of two, since the times of steps of one length are comparable."""
    fitting = max(1, min(_MOST_RUN_TOKENS, int(_MOST_RUN_US / max(token_us, 1.0))))
    return 1 << (fitting.bit_length() - 1)


class Drawn(Protocol):
    """What was asked of a session."""

    @property
    def tokens(self) -> TokenArray:
        """Fed."""
        ...

    @property
    def num_drafts(self) -> int:
        """Drawn one after the other behind the first."""
        ...


class Runs:
    """What a target's tokens take at present, all its sessions at once."""

    def __init__(self) -> None:
        self._token_us: float | None = None

    def note(self, batch: Sequence[Drawn], elapsed_us: float) -> None:
        """A forward has been made, and one for each draft behind it."""
        if any(len(drawn.tokens) > 1 for drawn in batch):
            return
        token_us = elapsed_us / (1 + max(drawn.num_drafts for drawn in batch))
        before_us = token_us if self._token_us is None else self._token_us
        self._token_us = before_us + _NEWEST * (token_us - before_us)

    def allow(self, stages: Collection[Stage]) -> None:
        """Says how many tokens these may draw in their next step: one while any of them has a
        prompt to feed or a drafter, which would wait for the others' tokens."""
        may_run = self._token_us is not None and all(stage.is_alone for stage in stages)
        num_tokens = run_tokens(self._token_us) if may_run and self._token_us else 1
        for stage in stages:
            stage.max_drafts = num_tokens
