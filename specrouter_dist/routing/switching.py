"""What it costs a request to change its chain (DESIGN: section 8).

A member that joins has to prefill the request's tokens before it can propose or verify; a change of
knobs alone, or a shorter chain, is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from specrouter_dist.routing.costs import Regime
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
        token_us: price per token of each chain: predicted time, and as the load weighs it that of
            the devices.
        prefill_us: price of the prefill of each member that may join, per token of the request.
    """

    token_us: Mapping[Chain, float]
    prefill_us: Mapping[str, float]

    @classmethod
    def to(
        cls, chain: Chain, token_us: Mapping[Chain, float], regime: Regime, latency: LatencyTable
    ) -> Self:
        """To ``chain`` from any other; of members never timed a prefill is free."""
        prefill_us: dict[str, float] = {}
        for member in chain:
            # Members without a model have nothing to prefill.
            if (chunk_us := latency.forward_us(member, _PREFILL_ROWS)) is not None:
                prefill_us[member] = regime.price_us(chunk_us, chunk_us) / _PREFILL_ROWS
        return cls(token_us, prefill_us)

    def pays(self, old: Chain, new: Chain, progress: Progress) -> bool:
        """Whether ``new`` gains more over the rest of the request than its newcomers' prefill.

        A chain that is not among the best for such requests is left at any price.
        """
        newcomers = set(new) - set(old)
        if not newcomers or old not in self.token_us or new not in self.token_us:
            return True
        gain_us = (self.token_us[old] - self.token_us[new]) * progress.num_left
        charge_us = sum(self.prefill_us.get(member, 0.0) for member in newcomers)
        return gain_us > charge_us * progress.num_tokens


FREE = Switching({}, {})
"""Nothing is known of what a change costs: none is held back."""
