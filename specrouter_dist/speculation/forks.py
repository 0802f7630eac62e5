"""What preparing for outcomes asks of a model, whatever runs it: copies of a session's cache that
go on differently."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from specrouter_dist.speculation.messages import TokenArray


class Draw(NamedTuple):
    """A token that was drawn, and what else might have been."""

    token: int
    runner_up: int | None
    """The next best at its position, if there is one."""
    gap: float
    """By how much the score of the token is above that of the runner-up, in nats."""


class Feed(NamedTuple):
    """A token that is fed to a fork."""

    fork: int
    position: int
    token: int


class Forks(Protocol):
    """The cache of one session, and what has been forked of it."""

    def feed(self, start: int, tokens: TokenArray) -> None:
        """Feeds the session itself, from position ``start`` on, in one forward."""
        ...

    def fork(self, length: int, max_total_tokens: int) -> int:
        """A fork that shares the session's first ``length`` positions and has room for
        ``max_total_tokens``.

        Raises:
            NoRoomError: there is none.
        """
        ...

    def draw(self, feeds: Sequence[Feed]) -> list[Draw]:
        """Feeds each fork a token and draws the next one, all in one forward."""
        ...

    def close(self, fork: int) -> None:
        """Frees the fork."""
        ...
