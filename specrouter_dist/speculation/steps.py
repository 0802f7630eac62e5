"""One forward of a stage, and the counts of what forwards achieved."""

from dataclasses import dataclass, field

from specrouter_dist.speculation.messages import TokenArray

MOST_BATCH_TOKENS = 1024
"""A batch that feeds so many takes no further session: it would keep those who wait for a token
waiting for the prompts of others, and need memory without a bound."""


@dataclass(frozen=True, slots=True)
class Step:
    """A forward to be made: the snapshot of what it was asked on."""

    start: int
    tokens: TokenArray
    """Fed at positions ``[start, start + len(tokens))``: the un-cached tail, then proposals."""
    num_picks: int
    num_proposals: int
    num_drafts: int
    """Tokens to draw autoregressively behind the last pick."""
    from_own_text: bool = False
    """The proposals continue the stage's own text; upstream did not make them."""

    @property
    def first_pick(self) -> int:
        """Position of the first pick."""
        return self.start + len(self.tokens) - self.num_picks + 1


@dataclass(slots=True)
class StageCounts:
    """What happened at a stage, as verifier of its upstream. Counts only grow."""

    rounds: int = 0
    """Forwards with picks."""
    verify_rounds: int = 0
    """Of these, with at least one proposal."""
    proposed: int = 0
    accepted: int = 0
    truncations: int = 0
    """Rounds in which a proposal was rejected."""
    histograms: dict[int, list[int]] = field(default_factory=dict)
    """By the number of proposals n: ``[k]``, verify rounds that accepted k of n."""

    def add_round(self, proposed: int, accepted: int, rejected: bool, drafted: int = 0) -> None:
        """Counts one forward with picks, and one for each token drafted behind them."""
        self.rounds += 1 + drafted
        if not proposed:
            return
        self.verify_rounds += 1
        self.proposed += proposed
        self.accepted += accepted
        self.truncations += rejected
        histogram = self.histograms.get(proposed)
        if histogram is None:
            histogram = self.histograms[proposed] = [0] * (proposed + 1)
        histogram[accepted] += 1
