"""What it costs a request to change its chain (DESIGN: section 8).

A member that joins has to prefill the request's tokens before it can propose or verify; a change of
knobs alone, or a shorter chain, is free.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from specrouter_dist.routing.latency import LatencyTable

_PREFILL_ROWS = 128
"""Tokens of a prompt that are fed at once."""

Chain = tuple[str, ...]


class Progress(NamedTuple):
    """How far a request has come."""

    num_tokens: int
    """Prompt and output: what a newcomer has to prefill."""
    num_left: int
    """Tokens that may still be generated."""


@dataclass(frozen=True, slots=True)
class Switching:
    """What is weighed before a request takes another chain.

    Attributes:
        token_us: predicted time per token of each chain.
        prefill_us: of each member, per token of the request.
    """

    token_us: Mapping[Chain, float]
    prefill_us: Mapping[str, float]

    @classmethod
    def of(cls, token_us: Mapping[Chain, float], latency: LatencyTable) -> Self:
        """Among these chains, with what is known of their members' times."""
        members = dict.fromkeys(member for chain in token_us for member in chain)
        return cls(token_us, dict(_prefills_us(members, latency)))

    def pays(self, old: Chain, new: Chain, progress: Progress) -> bool:
        """Whether ``new`` gains more over the rest of the request than its newcomers' prefill.

        A chain that nobody has predicted is left at any price.
        """
        newcomers = set(new) - set(old)
        if not newcomers or old not in self.token_us or new not in self.token_us:
            return True
        gain_us = (self.token_us[old] - self.token_us[new]) * progress.num_left
        charge_us = sum(self.prefill_us.get(member, 0.0) for member in newcomers)
        return gain_us > charge_us * progress.num_tokens


FREE = Switching({}, {})
"""Nothing is known of what a change costs: none is held back."""


def _prefills_us(members: Iterable[str], latency: LatencyTable) -> Iterable[tuple[str, float]]:
    """Members without a model have nothing to prefill."""
    for member in members:
        chunk_us = latency.forward_us(member, _PREFILL_ROWS)
        if chunk_us is not None:
            yield member, chunk_us / _PREFILL_ROWS
