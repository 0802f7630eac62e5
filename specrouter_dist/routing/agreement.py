"""How often the verifier keeps what the drafter proposes, per position of the block."""

from dataclasses import dataclass, field

from specrouter_dist.routing.observations import PairKey, Survival

PRIOR_AGREEMENT = 0.6
"""Of a pair that was never chained."""
_PRIOR_WEIGHT = 4.0
"""The prior counts as so many observed proposals per position."""
_MEMORY_BLOCKS = 200.0
"""Weight of the past, in blocks."""


@dataclass(slots=True)
class _Pair:
    reached: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    num_blocks: float = 0.0
    num_empty: float = 0.0

    def decay(self, num_new_blocks: int) -> None:
        keep = _MEMORY_BLOCKS / (_MEMORY_BLOCKS + num_new_blocks)
        self.reached = [x * keep for x in self.reached]
        self.accepted = [x * keep for x in self.accepted]
        self.num_blocks *= keep
        self.num_empty *= keep


class AgreementTable:
    """Decayed survival of ordered pairs, by sampling regime."""

    def __init__(self) -> None:
        self._pairs: dict[PairKey, _Pair] = {}

    def record(self, key: PairKey, survival: Survival) -> None:
        """Takes the blocks since the last record."""
        pair = self._pairs.setdefault(key, _Pair())
        pair.decay(survival.num_blocks)
        missing = len(survival.reached) - len(pair.reached)
        pair.reached.extend([0.0] * missing)
        pair.accepted.extend([0.0] * missing)
        for k, (reached, accepted) in enumerate(
            zip(survival.reached, survival.accepted, strict=True)
        ):
            pair.reached[k] += reached
            pair.accepted[k] += accepted
        pair.num_blocks += survival.num_blocks
        pair.num_empty += survival.num_empty

    def mean(self, key: PairKey) -> float:
        """Share of the proposals that were judged which were accepted."""
        pair = self._pairs.get(key, _Pair())
        return (sum(pair.accepted) + PRIOR_AGREEMENT * _PRIOR_WEIGHT) / (
            sum(pair.reached) + _PRIOR_WEIGHT
        )

    def expected_tokens(self, key: PairKey, num_proposals: int, scale: float = 1.0) -> float:
        """Tokens a round of ``num_proposals`` yields, the recovered or bonus token included.

        The sum of the survival s_0..s_n (Leviathan et al. with measured s_k instead of
        alpha^k), weighted by how often the drafter has something to propose. ``scale``: for a
        request that accepts so many times as often as usual at every position.
        """
        pair = self._pairs.get(key, _Pair())
        pooled = self.mean(key)
        survival, total = 1.0, 1.0
        for k in range(num_proposals):
            reached = pair.reached[k] if k < len(pair.reached) else 0.0
            accepted = pair.accepted[k] if k < len(pair.accepted) else 0.0
            usual = (accepted + pooled * _PRIOR_WEIGHT) / (reached + _PRIOR_WEIGHT)
            survival *= min(1.0, usual * scale)
            total += survival
        empty = pair.num_empty / pair.num_blocks if pair.num_blocks else 0.0
        return empty + (1 - empty) * total

    def survival(self, key: PairKey, num_proposals: int, scale: float = 1.0) -> float:
        """Probability that all of ``num_proposals`` proposals are accepted."""
        more = self.expected_tokens(key, num_proposals, scale)
        return more - self.expected_tokens(key, num_proposals - 1, scale)
