"""What a mask is worth: the time per token of the best chain through it, as the planner says.

The router is taught what it would learn of the pool: profiles, and replays of the target's texts
for all pairs. What is known of the other members is kept; of each mask a copy learns.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from specrouter_dist.config import LookupMember, SamplingParams
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.knobs import Chain
from specrouter_dist.routing.observations import (
    Observations,
    PairKey,
    Reading,
    Survival,
)
from specrouter_dist.routing.planner import Candidate, Planner
from specrouter_dist.routing.replay import OWN_TEXT_MATCHES, own_text_names
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.state import MAX_POSITIONS
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.slim.texts import Text
from specrouter_dist.speculation.messages import TokenArray

SLIM = "slim"
"""Name of the member that is tried."""
_MOST_DRAFTERS = 3
"""Of a chain that is weighed, the slim member among them."""
_BISECTIONS = 10
_MANY_BLOCKS = 1_000_000
"""Outweigh all that was measured."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The pool that a mask would join.

    Attributes:
        models: names; the last is the target.
        lookups: members without a model.
        devices: where each model runs. The slim member is where the target is.
        hop_us: what a round pays for crossing between two devices.
    """

    models: tuple[str, ...]
    lookups: Mapping[str, LookupMember]
    devices: Mapping[str, str]
    hop_us: float

    @property
    def target(self) -> str:
        """Its name."""
        return self.models[-1]


@dataclass(frozen=True, slots=True)
class Score:
    """Of one mask."""

    agreement: float
    """Share of the positions at which it picks the target's token."""
    cost: float
    """Time of a step of one token, relative to the target's."""
    predicted_us: float
    """Time per token of the best chain through it."""
    chain: tuple[str, ...]
    num_draft_tokens: tuple[int, ...]


class Scorer:
    """Scores masks along some texts.

    Args:
        pool: the other members.
        sampling: of the texts, but for the seeds.
        texts: the target's.
        known: the others' profiles.
        readings: what each other drafter picks along the texts.
    """

    def __init__(
        self,
        pool: Neighbours,
        sampling: SamplingParams,
        texts: Sequence[Text],
        known: Observations,
        readings: Mapping[str, Sequence[TokenArray]],
    ) -> None:
        self._pool = pool
        self._texts = texts
        self._traffic = Traffic.of(sampling)
        *drafters, target = pool.models
        self._names = (*drafters, SLIM, target)
        self._devices = {**pool.devices, SLIM: pool.devices[target]}
        self._taught = Router(self._names, pool.lookups, self._devices, hop_us=pool.hop_us)
        self._taught.observe(known, 0.0)
        own = [
            Reading(i, target, self._traffic, text.output, text.prompt)
            for i, text in enumerate(texts)
        ]
        others = [
            self._reading(name, i, picks)
            for name in drafters
            for i, picks in enumerate(readings[name])
        ]
        self._taught.observe(Observations(readings=[*own, *others]), 0.0)

    def _reading(self, member: str, number: int, picks: TokenArray) -> Reading:
        return Reading(number, member, self._traffic, picks, picks[:0])

    def without(self) -> Candidate:
        """The best chain of the others."""
        return self._best(self._taught, lambda chain: SLIM not in chain)

    def score(self, profile: Observations, picks: Sequence[TokenArray]) -> Score:
        """Of a mask with these step times, which picks these tokens along the texts."""
        router = self._learned(profile, picks)
        best = self._best(router, lambda chain: SLIM in chain)
        return Score(
            self.agreement(picks),
            self._cost(router),
            best.predicted_us,
            best.chain,
            best.num_draft_tokens,
        )

    def break_even(self, profile: Observations, picks: Sequence[TokenArray]) -> float | None:
        """From which agreement with the target on a slim member with these step times would pay,
        all else being as measured; None: from none."""
        router, without_us = self._learned(profile, picks), self.without().predicted_us

        def pays(agreement: float) -> bool:
            told, blocks = copy.deepcopy(router), _geometric(agreement)
            # Where the target continues its own text, too.
            besides = (own_text_names(SLIM, match_tokens)[1] for match_tokens in OWN_TEXT_MATCHES)
            pairs = (PairKey(name, self._pool.target, self._traffic) for name in (SLIM, *besides))
            told.observe(Observations(pairs=dict.fromkeys(pairs, blocks)), 0.0)
            best = self._best(told, lambda chain: chain[-2:-1] == (SLIM,))
            return best.predicted_us < without_us

        low, high = 0.0, 1.0
        if not pays(high):
            return None
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if pays(middle) else (middle, high)
        return high

    def agreement(self, picks: Sequence[TokenArray]) -> float:
        """Share of the positions of all texts at which these are the target's tokens."""
        same = [
            ours == theirs
            for text, own in zip(self._texts, picks, strict=True)
            for ours, theirs in zip(own, text.output, strict=True)
        ]
        return sum(same) / len(same)

    def _learned(self, profile: Observations, picks: Sequence[TokenArray]) -> Router:
        router = copy.deepcopy(self._taught)
        router.observe(profile, 0.0)
        readings = [self._reading(SLIM, i, of_text) for i, of_text in enumerate(picks)]
        router.observe(Observations(readings=readings), 0.0)
        return router

    def _cost(self, router: Router) -> float:
        slim_us, target_us = (
            router.latency.forward_us(name, 1) for name in (SLIM, self._pool.target)
        )
        assert slim_us is not None and target_us is not None
        return slim_us / target_us

    def _best(self, router: Router, is_wanted: Callable[[Chain], bool]) -> Candidate:
        planner = Planner(
            self._names,
            tuple(self._pool.lookups),
            self._devices,
            router.latency,
            router.agreement,
            router.paces,
        )
        chains = filter(is_wanted, self._chains(router))
        ways = (planner.evaluate(chain, Regime(self._traffic)) for chain in chains)
        return min((way for way in ways if way is not None), key=lambda way: way.predicted_us)

    def _chains(self, router: Router) -> Iterator[Chain]:
        """All of a few drafters, in the order of their speed, lookups first."""
        times_us = {name: router.latency.forward_us(name, 1) for name in self._names[:-1]}
        known = {name: us for name, us in times_us.items() if us is not None}
        drafters = [*self._pool.lookups, *sorted(known, key=known.__getitem__)]
        for count in range(_MOST_DRAFTERS + 1):
            for chain in combinations(drafters, count):
                if not any(name in self._pool.lookups for name in chain[1:]):
                    yield (*chain, self._pool.target)


def _geometric(agreement: float) -> Survival:
    """Of blocks that agree equally often at every position."""
    survival = Survival(num_blocks=_MANY_BLOCKS)
    reached = float(_MANY_BLOCKS)
    for _ in range(MAX_POSITIONS):
        survival.reached.append(round(reached))
        reached *= agreement
        survival.accepted.append(round(reached))
    return survival
