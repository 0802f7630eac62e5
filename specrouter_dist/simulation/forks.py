"""Outcome drafting under the virtual clock: forks that draw from a text, and what that takes."""

from collections.abc import Sequence
from itertools import count

from specrouter_dist.simulation.profile import MemberProfile
from specrouter_dist.simulation.session import Session
from specrouter_dist.speculation.forks import Draw, Feed
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.tokens import extend_hash


def last_draws(session: Session, num_tokens: int) -> list[Draw]:
    """The last tokens of the session's stream, as its member drew them."""
    tokens = session.model_stage.tokens
    positions = range(len(tokens) - num_tokens, len(tokens))
    return [_draw(session, position, tokens.hash_at(position)) for position in positions]


def _draw(session: Session, position: int, prefix_hash: int) -> Draw:
    """For the member that the session drafts for."""
    assert session.down is not None
    verifier = session.down.replica.index
    return session.request.text.draw(session.replica.index, verifier, position, prefix_hash)


class TextForks:
    """The forks of one session: hashes of prefixes. What a forward takes is noted in
    ``session.prepared_us``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._numbers = count()
        self._hashes: dict[int, int] = {}
        """By fork, of what it has been fed."""

    def feed(self, start: int, tokens: TokenArray) -> None:
        """See :class:`Forks`, also for the others."""
        self._take(len(tokens), [start])

    def fork(self, length: int, max_total_tokens: int) -> int:
        """Memory has no end."""
        number = next(self._numbers)
        self._hashes[number] = self._session.stage.tokens.hash_at(length)
        return number

    def draw(self, feeds: Sequence[Feed]) -> list[Draw]:
        """One row of each."""
        draws = []
        for number, position, token in feeds:
            self._hashes[number] = prefix_hash = extend_hash(self._hashes[number], token)
            draws.append(_draw(self._session, position + 1, prefix_hash))
        self._take(len(feeds), [feed.position for feed in feeds])
        return draws

    def close(self, fork: int) -> None:
        """Forgets it."""
        del self._hashes[fork]

    def _take(self, num_rows: int, contexts: Sequence[int]) -> None:
        member = self._session.replica.member
        assert isinstance(member, MemberProfile)
        self._session.prepared_us = member.step.us(num_rows, len(contexts), sum(contexts))
