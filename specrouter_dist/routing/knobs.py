"""The best knobs of chains, level by level of all of them at once.

The levels up to a stage are run in a few ways, the best ones. Each of them, with and without the
stage's own text, is a way to feed it; for each way all lengths to wait for and numbers of blocks to
take at once are weighed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np

from specrouter_dist.routing.costs import LENGTHS, Costs, Floats
from specrouter_dist.routing.rounds import (
    Rounds,
    Way,
    burst_and_window,
    possible_aheads,
    possible_matches,
)
from specrouter_dist.routing.runs import Blocks, Taking

_KEPT_SETTINGS = 3
"""Of each chain, best first: the fastest is not always what the next level makes the most of."""

Chain = tuple[str, ...]
PaceOf = Callable[[Chain, bool], float]
"""Measured over predicted times of a chain, and whether it drafts ahead for its last member."""


class EdgeChoice(NamedTuple):
    """Knobs of one edge."""

    num_draft_tokens: int
    """That are waited for."""
    ahead: int
    """Blocks that are taken at once where they were drafted ahead; 0: in lock-step."""
    match_tokens: int
    """The verifier continues its own text where so many tokens match; 0: never."""


@dataclass(frozen=True)
class _Level:
    """The best ways to run the last level of some chains."""

    rounds: Rounds
    at: list[tuple[int, int, int]]

    @cached_property
    def blocks(self) -> Blocks:
        """What the verifiers hand down; the target's go to nobody."""
        return self.rounds.blocks(self.at)


@dataclass(frozen=True, slots=True)
class Setting:
    """Knobs of a chain and what they come to."""

    edges: tuple[EdgeChoice, ...]
    """The drafter's first."""
    predicted_us: float
    """Time per token of each request's stream."""
    devices_us: float
    """Time of all devices per token."""
    level: _Level
    row: int
    """Of what the level hands down."""


_Settings = dict[Chain, list[Setting]]


def best_settings(costs: Costs, chains: Sequence[Chain], pace: PaceOf) -> dict[Chain, Setting]:
    """Of chains of two members or more."""
    settings: _Settings = {}
    for length in range(2, max(map(len, chains), default=0) + 1):
        parts = dict.fromkeys(chain[:length] for chain in chains if len(chain) >= length)
        for overlaps in (True, False):
            alike = [part for part in parts if costs.can_overlap(*part[-2:]) is overlaps]
            if alike:
                settings |= _extended(costs, alike, settings, pace)
    return {chain: settings[chain][0] for chain in chains}


def _extended(
    costs: Costs, chains: Sequence[Chain], settings: _Settings, pace: PaceOf
) -> _Settings:
    """The best of these chains, from the ``settings`` of those without their last members."""
    fed = [
        (chain, below, match)
        for chain in chains
        for match in possible_matches(costs, *chain[-2:])
        for below in settings.get(chain[:-1], [None])
    ]
    aheads = possible_aheads(costs, *chains[0][-2:])
    ways = [_way(costs, *one) for one in fed]
    overshoot = [[float(below.edges[-1].num_draft_tokens) if below else 0.0] for _, below, _ in fed]
    taking = burst_and_window(LENGTHS, np.array(aheads)[:, None, None], np.array(overshoot))
    rounds = Rounds.of(costs, ways, Taking(*taking))
    ratios = [[[pace(chain, ahead > 0)] for chain, *_ in fed] for ahead in aheads]
    prices_us = rounds.prices_us(costs.regime) * np.array(ratios)
    best = list(_best_of_each(prices_us, [chain for chain, *_ in fed]))
    level, devices_us = _Level(rounds, best), rounds.token_devices_us(costs.regime.num_sessions)
    found: _Settings = {chain: [] for chain in chains}
    for row, at in enumerate(best):
        ahead, way, length = at
        chain, below, match = fed[way]
        edges = *(below.edges if below else ()), EdgeChoice(length + 1, aheads[ahead], match)
        times_us = float(rounds.taus_us[at]), float(devices_us[at])
        found[chain].append(Setting(edges, *times_us, level, row))
    return found


def _way(costs: Costs, chain: Chain, below: Setting | None, match_tokens: int) -> Way:
    """``below``: how the chain is run without its last member; None: a drafter is all it is."""
    blocks, row = Blocks.drawn(costs.drafting_us(chain[-2])), 0
    if below is not None:
        blocks, row = below.level.blocks, below.row
    return Way(chain[-2], chain[-1], blocks, row, match_tokens)


def _best_of_each(prices_us: Floats, chains: Sequence[Chain]) -> Iterator[tuple[int, int, int]]:
    """Indices of the least prices among the ways of each chain, which stand side by side."""
    begin = 0
    for _, ways in groupby(chains):
        end = begin + sum(1 for _ in ways)
        of_chain = prices_us[:, begin:end]
        best = np.argsort(of_chain, axis=None, kind="stable")[:_KEPT_SETTINGS]
        for ahead, way, length in zip(*np.unravel_index(best, of_chain.shape), strict=True):
            yield int(ahead), begin + int(way), int(length)
        begin = end
