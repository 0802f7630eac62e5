"""How often the verifier keeps what the drafter proposes, per position of the block.

What is known comes in layers, each the prior of the next: a guess; how alike the two members' laws
are (routing/scores.py); what replays of finished requests say of the pair (routing/replay.py), for
all kinds of requests and for narrower ones; what verifies of the pair itself have said. A layer
with little evidence leaves the one below standing.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from specrouter_dist.routing.comparisons import Comparison, Origin
from specrouter_dist.routing.evidence import Evidence, Grounds, Source
from specrouter_dist.routing.observations import PairKey, Survival
from specrouter_dist.routing.scores import Score, Scores, place
from specrouter_dist.routing.state import MAX_POSITIONS, EvidenceState, ScoreState
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic

PRIOR_AGREEMENT = 0.6
"""Of a pair of which nothing is known."""
_PRIOR_WEIGHT = 4.0
"""A layer's prior counts as so many observed proposals per position."""
_MOST_SIMILAR_POSITIONS = 64.0
"""As so many judged proposals similarity counts at most, over the guess below it. What replays and
verifies say outweighs it like any layer's prior, with ``_PRIOR_WEIGHT``."""


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
    token_array: npt.NDArray[np.float64] = field(compare=False, repr=False)
    """The same as an array, made once."""

    @classmethod
    def make(cls, conditional: Sequence[float], mean: float, empty: float) -> "Curve":
        """With the sums that follow."""
        survivals = accumulate(conditional, lambda before, a: before * a, initial=1.0)
        tokens = tuple(empty + (1 - empty) * total for total in accumulate(survivals))
        return cls(tuple(conditional), mean, empty, tokens, np.array(tokens))

    @classmethod
    def geometric(cls, agreement: float) -> "Curve":
        """Of a pair that agrees equally often at every position."""
        return cls.make((agreement,) * MAX_POSITIONS, agreement, 0.0)

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


UNKNOWN = Curve.geometric(PRIOR_AGREEMENT)
"""Of pairs of which nothing is known."""

KnownTokens = tuple[list[str], npt.NDArray[np.float64]]
"""Drafters, and :attr:`Curve.tokens` of each, shape [num_drafters, MAX_POSITIONS + 1]."""


class AgreementTable:
    """Survival of ordered pairs, by kind of request."""

    def __init__(self) -> None:
        self._evidence: dict[tuple[PairKey, Source], Evidence] = {}
        self._curves: dict[tuple[str, str], dict[Traffic, Curve]] = {}
        self._drafts: dict[str, set[str]] = {}
        self._tokens: dict[str, dict[tuple[frozenset[str], Traffic], KnownTokens]] = {}
        self._told_apart: set[Traffic] = set()
        """Kinds in a task of which more is known than of their regimes."""
        self._places: dict[Origin, float] = {}
        self.scores = Scores()

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
        self._learned(key)

    def compare(self, key: PairKey, comparison: Comparison, now_s: float) -> None:
        """Takes how alike the two members' laws are."""
        self.scores.record(key, comparison, now_s)
        self._learned(key)

    def keep(self, kinds: Container[Traffic]) -> None:
        """Forgets what is known in a task, but of these kinds: others are as their regime."""
        self._evidence = {
            (key, source): evidence
            for (key, source), evidence in self._evidence.items()
            if not key.traffic.task or key.traffic in kinds
        }
        self.scores.keep(kinds)
        self._told_apart = {kind for kind in self._told_apart if kind in kinds}
        self._curves.clear()
        self._tokens.clear()

    def _learned(self, key: PairKey) -> None:
        if key.traffic.task:
            self._told_apart.add(key.traffic)
        self._drafts.setdefault(key.verifier, set()).add(key.draft)
        # Narrower kinds may rest on this.
        self._curves.pop((key.draft, key.verifier), None)
        self._tokens.pop(key.verifier, None)
        self._places = {}

    def curve(self, key: PairKey) -> Curve:
        """What is known of the pair."""
        curves = self._curves.setdefault((key.draft, key.verifier), {})
        kind = self._narrowest(key.traffic)
        curve = curves.get(kind)
        if curve is None:
            curve = curves[kind] = self._refine(key._replace(traffic=kind))
        return curve

    def _narrowest(self, traffic: Traffic) -> Traffic:
        """The same is known of it, and of few: clients name tasks as they like."""
        is_own = traffic in self._told_apart or not traffic.task
        return traffic if is_own else Traffic(traffic.regime)

    def knows(self, draft: str, verifier: str) -> bool:
        """Whether there is any evidence of the pair; without it the curve is that of all such."""
        return draft in self._drafts.get(verifier, ())

    def known_tokens(self, drafts: frozenset[str], verifier: str, traffic: Traffic) -> KnownTokens:
        """Those of ``drafts`` of which there is evidence with this verifier, and the tokens that
        rounds with them yield. Kept until more is learned of the verifier's pairs."""
        kept, kind = self._tokens.setdefault(verifier, {}), self._narrowest(traffic)
        found = kept.get((drafts, kind))
        if found is None:
            known = [draft for draft in self._drafts.get(verifier, ()) if draft in drafts]
            curves = [self.curve(PairKey(draft, verifier, kind)) for draft in known]
            tokens = np.array([curve.token_array for curve in curves])
            found = kept[drafts, kind] = known, tokens.reshape(len(known), MAX_POSITIONS + 1)
        return found

    def _refine(self, key: PairKey) -> Curve:
        curve = UNKNOWN
        for score in self.scores.layers(key):
            num_judged = min(score.mean.num_positions, _MOST_SIMILAR_POSITIONS)
            curve = curve.refined(Evidence.expected(score.agreement(self.places), num_judged))
        for kind in reversed(list(key.traffic.lineage())):
            for source in Source:
                evidence = self._evidence.get((key._replace(traffic=kind), source))
                if evidence is not None:
                    curve = curve.refined(evidence)
        return curve

    def expected(self, key: PairKey) -> Curve | None:
        """What similarity alone says of the pair; None: nothing."""
        *_, score = (None, *self.scores.layers(key))
        return None if score is None else Curve.geometric(score.agreement(self.places))

    @property
    def places(self) -> Mapping[Origin, float]:
        """Where between their bounds sampled requests' agreements lie, as far as that is known."""
        if not self._places:
            self._places = {origin: place(origin, self._observed(origin)) for origin in Origin}
        return self._places

    def _observed(self, origin: Origin) -> Iterator[tuple[Score, float, float]]:
        for (key, _), evidence in self._evidence.items():
            # Of all sampled requests together nobody knows how they are sampled.
            if key.traffic.task or key.traffic in (GREEDY, SAMPLED):
                continue
            score = self.scores.get(key, origin)
            if score is not None and evidence.mean is not None:
                yield score, evidence.mean, sum(evidence.reached)

    def evidence(self, key: PairKey, source: Source) -> Evidence | None:
        """What ``source`` alone says of the pair; None: nothing."""
        return self._evidence.get((key, source))

    def known(self) -> list[PairKey]:
        """Pairs of which there is evidence, by kind of request."""
        return list(dict.fromkeys(key for key, _ in self._evidence))

    def newest(self, count: int) -> list[PairKey]:
        """Of these, and of those that have only been compared, for the widest kinds of requests,
        the ones with the newest evidence, the newest first."""
        at_s = dict(self.scores.newest())
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
        else:
            of = key
        backings = {
            source: evidence.backing(now_s)
            for source in Source
            if (evidence := self._evidence.get((of, source)))
        }
        *_, score = (None, *self.scores.layers(key))
        return Grounds(
            *of,
            self.curve(key).mean,
            backings.get(Source.CHAINED),
            backings.get(Source.REPLAYED),
            None if score is None else score.likeness(self.places, now_s),
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

    def restore(
        self, state: Iterable[EvidenceState], scores: Iterable[ScoreState], now_s: float
    ) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for of in state:
            key = PairKey(of.draft, of.verifier, of.traffic)
            self._evidence[key, Source(of.source)] = Evidence(
                list(of.reached), list(of.accepted), of.num_blocks, of.num_empty, now_s - of.age_s
            )
            self._learned(key)
        for one in scores:
            key = PairKey(one.draft, one.verifier, one.traffic)
            self.scores.restore(key, one, now_s)
            self._learned(key)
