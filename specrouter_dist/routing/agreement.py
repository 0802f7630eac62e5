"""How often the verifier keeps what the drafter proposes, per position of the block.

What is known comes in layers, each the prior of the next: a guess; what replays of finished
requests say of the pair (routing/replay.py), for all kinds of requests and for narrower ones; what
verifies of the pair itself have said. A layer with little evidence leaves the one below standing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import nlargest
from itertools import accumulate

from specrouter_dist.routing.observations import PairKey, Survival
from specrouter_dist.routing.state import MAX_POSITIONS, EvidenceState
from specrouter_dist.routing.traffic import Traffic

PRIOR_AGREEMENT = 0.6
"""Of a pair of which nothing is known."""
_PRIOR_WEIGHT = 4.0
"""A layer's prior counts as so many observed proposals per position."""
_MEMORY_BLOCKS = 600.0
"""Weight of the past, in blocks: some dozens of requests, which differ more from each other than
their blocks do."""


class Source(StrEnum):
    """Where blocks come from, the less direct first."""

    REPLAYED = "replayed"
    CHAINED = "chained"


@dataclass(slots=True)
class Evidence:
    """Decayed counts of a pair's blocks."""

    reached: list[float] = field(default_factory=lambda: [0.0] * MAX_POSITIONS)
    accepted: list[float] = field(default_factory=lambda: [0.0] * MAX_POSITIONS)
    num_blocks: float = 0.0
    """Effective number: what is older counts less."""
    num_empty: float = 0.0
    at_s: float = 0.0
    """When the newest came, by the router's clock."""

    def add(self, survival: Survival, now_s: float) -> None:
        """Takes blocks that are newer than all before."""
        self.at_s = now_s
        keep = _MEMORY_BLOCKS / (_MEMORY_BLOCKS + survival.num_blocks)
        self.num_blocks = self.num_blocks * keep + survival.num_blocks
        self.num_empty = self.num_empty * keep + survival.num_empty
        self.reached = _decay_and_add(self.reached, keep, survival.reached)
        self.accepted = _decay_and_add(self.accepted, keep, survival.accepted)

    @property
    def mean(self) -> float | None:
        """Share of the judged proposals that were accepted; None: none was judged."""
        judged = sum(self.reached)
        return sum(self.accepted) / judged if judged else None

    def backing(self, now_s: float) -> "Backing":
        """For people."""
        return Backing(self.num_blocks, self.mean, max(0.0, now_s - self.at_s))


@dataclass(frozen=True, slots=True)
class Backing:
    """How much one source has to say of a pair."""

    num_blocks: float
    """Effective number."""
    mean: float | None
    """Share of the judged proposals that were accepted; None: none was judged."""
    age_s: float
    """Of the newest block."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What is known of a pair for a kind of request, and what that rests on."""

    draft: str
    verifier: str
    traffic: Traffic
    """The narrowest kind of which there is evidence."""
    agreement: float
    """Share of the judged proposals that are accepted, all layers taken together."""
    chained: Backing | None
    replayed: Backing | None

    @property
    def bias(self) -> float | None:
        """What replays say beyond what verifies say; None: one of the two is silent."""
        chained, replayed = (one.mean if one else None for one in (self.chained, self.replayed))
        return None if replayed is None or chained is None else replayed - chained


def _decay_and_add(past: list[float], keep: float, new: Sequence[int]) -> list[float]:
    padded = (*new[:MAX_POSITIONS], *(0,) * (MAX_POSITIONS - len(new)))
    return [old * keep + more for old, more in zip(past, padded, strict=True)]


@dataclass(frozen=True, slots=True)
class Curve:
    """A pair's agreement as the planner uses it."""

    conditional: tuple[float, ...]
    """Per position: how often it is accepted when all before it are."""
    mean: float
    """Share of the judged proposals that are accepted."""
    empty: float
    """Share of the rounds in which the drafter has nothing to propose."""
    tokens: tuple[float, ...]
    """``tokens[n]``: tokens that a round of n proposals yields, the recovered or bonus token
    included: the sum of the survival s_0..s_n (Leviathan et al. with measured s_k instead of
    alpha^k), weighted by how often there is something to propose."""

    @classmethod
    def make(cls, conditional: Sequence[float], mean: float, empty: float) -> "Curve":
        """With the sums that follow."""
        survivals = accumulate(conditional, lambda before, a: before * a, initial=1.0)
        tokens = tuple(empty + (1 - empty) * total for total in accumulate(survivals))
        return cls(tuple(conditional), mean, empty, tokens)

    def scaled(self, scale: float) -> "Curve":
        """For requests that accept so many times as often at every position."""
        if scale == 1.0:
            return self
        conditional = [min(1.0, a * scale) for a in self.conditional]
        return Curve.make(conditional, min(1.0, self.mean * scale), self.empty)

    def survival(self, num_proposals: int) -> float:
        """Probability that there are ``num_proposals`` proposals and all are accepted."""
        return self.tokens[num_proposals] - self.tokens[num_proposals - 1]

    def accepted_of(self, survival: Survival) -> float:
        """Proposals to be expected to be accepted of blocks as long as these were."""
        reached, accepted = float(survival.reached[0]), 0.0
        for k, share in enumerate(self.conditional[: len(survival.reached)]):
            accepted += reached * share
            if k + 1 == len(survival.reached) or not survival.accepted[k]:
                break
            # Of those whose proposal k was accepted, so many had another one.
            reached *= share * survival.reached[k + 1] / survival.accepted[k]
        return accepted

    def refined(self, evidence: Evidence) -> "Curve":
        """With ``evidence`` on top of what was known."""
        weight = _PRIOR_WEIGHT
        mean = (sum(evidence.accepted) + self.mean * weight) / (sum(evidence.reached) + weight)
        # A position rarely reached is like the others of this layer, in this layer's measure.
        shift = mean / self.mean if self.mean else 1.0
        conditional = [
            (accepted + min(1.0, usual * shift) * weight) / (reached + weight)
            for accepted, reached, usual in zip(
                evidence.accepted, evidence.reached, self.conditional, strict=True
            )
        ]
        num_blocks = evidence.num_blocks + weight
        empty = (evidence.num_empty + self.empty * weight) / num_blocks
        return Curve.make(conditional, mean, empty)


UNKNOWN = Curve.make((PRIOR_AGREEMENT,) * MAX_POSITIONS, PRIOR_AGREEMENT, 0.0)
"""Of pairs of which nothing is known."""


class AgreementTable:
    """Survival of ordered pairs, by kind of request."""

    def __init__(self) -> None:
        self._evidence: dict[tuple[PairKey, Source], Evidence] = {}
        self._curves: dict[tuple[str, str], dict[Traffic, Curve]] = {}
        self._drafts: dict[str, set[str]] = {}

    def record(
        self,
        key: PairKey,
        survival: Survival,
        source: Source = Source.CHAINED,
        now_s: float = 0.0,
    ) -> None:
        """Takes the blocks since the last record; wider kinds of requests learn from them too."""
        for kind in key.traffic.lineage():
            of = key._replace(traffic=kind), source
            self._evidence.setdefault(of, Evidence()).add(survival, now_s)
        self._drafts.setdefault(key.verifier, set()).add(key.draft)
        # Narrower kinds may rest on these.
        self._curves.pop((key.draft, key.verifier), None)

    def curve(self, key: PairKey) -> Curve:
        """What is known of the pair."""
        curves = self._curves.setdefault((key.draft, key.verifier), {})
        curve = curves.get(key.traffic)
        if curve is None:
            curve = curves[key.traffic] = self._refine(key)
        return curve

    def knows(self, draft: str, verifier: str) -> bool:
        """Whether there is any evidence of the pair; without it the curve is that of all such."""
        return draft in self._drafts.get(verifier, ())

    def _refine(self, key: PairKey) -> Curve:
        curve = UNKNOWN
        for kind in reversed(list(key.traffic.lineage())):
            for source in Source:
                evidence = self._evidence.get((key._replace(traffic=kind), source))
                if evidence is not None:
                    curve = curve.refined(evidence)
        return curve

    def evidence(self, key: PairKey, source: Source) -> Evidence | None:
        """What ``source`` alone says of the pair; None: nothing."""
        return self._evidence.get((key, source))

    def known(self) -> list[PairKey]:
        """Pairs of which there is evidence, by kind of request."""
        return list(dict.fromkeys(key for key, _ in self._evidence))

    def newest(self, count: int) -> list[PairKey]:
        """Of these the ones with the newest evidence, the newest first."""
        at_s: dict[PairKey, float] = {}
        for (key, _), evidence in self._evidence.items():
            at_s[key] = max(evidence.at_s, at_s.get(key, evidence.at_s))
        return nlargest(count, at_s, key=lambda key: at_s[key])

    def grounds(self, key: PairKey, now_s: float) -> Grounds:
        """What is known of the pair and what that rests on."""
        of = key
        for kind in key.traffic.lineage():
            of = key._replace(traffic=kind)
            if any((of, source) in self._evidence for source in Source):
                break
        backings = {
            source: evidence.backing(now_s)
            for source in Source
            if (evidence := self._evidence.get((of, source)))
        }
        return Grounds(
            *of, self.curve(key).mean, backings.get(Source.CHAINED), backings.get(Source.REPLAYED)
        )

    # -- remembering ---------------------------------------------------------------------------

    def state(self, now_s: float) -> tuple[EvidenceState, ...]:
        """All evidence."""
        return tuple(
            EvidenceState(
                *key,
                source.value,
                tuple(evidence.reached),
                tuple(evidence.accepted),
                evidence.num_blocks,
                evidence.num_empty,
                max(0.0, now_s - evidence.at_s),
            )
            for (key, source), evidence in self._evidence.items()
        )

    def restore(self, state: Iterable[EvidenceState], now_s: float) -> None:
        """Takes the evidence of an earlier table in place of what is here of the same."""
        for of in state:
            key = PairKey(of.draft, of.verifier, of.traffic)
            self._evidence[key, Source(of.source)] = Evidence(
                list(of.reached), list(of.accepted), of.num_blocks, of.num_empty, now_s - of.age_s
            )
            self._drafts.setdefault(of.verifier, set()).add(of.draft)
        self._curves.clear()
