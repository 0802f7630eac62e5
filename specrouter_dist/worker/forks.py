"""A session's slot of an engine, and forks of it, for what is prepared for the session."""

from array import array
from collections.abc import Sequence

from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.speculation.forks import Draw, Feed
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray


def draws_of(picks: Picks, start: int, num_draws: int) -> list[Draw]:
    """So many of ``picks``, which come with a runner-up each, from the one at ``start`` on."""
    return [
        Draw(picks.tokens[i], next(iter(picks.runner_ups[i]), None), picks.gaps[i])
        for i in range(start, start + num_draws)
    ]


class EngineForks:
    """The forks of one slot: other slots of the engine."""

    def __init__(self, engine: Engine, slot: int) -> None:
        self._engine = engine
        self._slot = slot

    def feed(self, start: int, tokens: TokenArray) -> None:
        """See :class:`Forks`, also for the others."""
        self._engine.extend([Extension(self._slot, start, tokens, 0)])

    def fork(self, length: int, max_total_tokens: int) -> int:
        """A slot."""
        return self._engine.fork(self._slot, length, max_total_tokens)

    def draw(self, feeds: Sequence[Feed]) -> list[Draw]:
        """One ragged batch."""
        batch = [
            Extension(
                feed.fork,
                feed.position,
                array(TOKEN_TYPECODE, (feed.token,)),
                num_picks=1,
                num_runner_ups=1,
            )
            for feed in feeds
        ]
        return [draws_of(picks, 0, 1)[0] for picks in self._engine.extend(batch)]

    def close(self, fork: int) -> None:
        """The slot is free again."""
        self._engine.close(fork)
