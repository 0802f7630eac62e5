"""Rounds with an upstream that drafts ahead, from one rejection to the next.

The first round of such a run waits until upstream has heard of the rejection, has ended what it
was making, and has made a block anew. Each round behind it begins with what upstream has made
during the verify before: at once where that is as much as is waited for, and with up to a burst of
it. With ``s(n)`` the chance that n proposals and upstream's next token, the bonus, all stand, round
k + 1 of a run follows on round k with chance ``s(n_k)``; time and tokens of a round are the sums
over a run, by the renewal theorem.

The simulator makes the same rounds with the real stages: tests/unit/simulation/test_runs.py holds
predictions of random plans to 4 % of its times in the median for two levels, and 7 % for three.

Arrays are over ways in which stages may be fed, and the length of the block that is waited for:
shape ``[..., ways, MAX_DRAFT_TOKENS]``, or one that numpy makes the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from specrouter_dist.routing.agreement import Curve
from specrouter_dist.routing.costs import LENGTHS, Floats
from specrouter_dist.routing.interpolated import Interpolated

_ROUNDS = 4
"""Of a run, that are told apart; the last two of them stand for all that follow."""
_JITTER = 0.1
"""Share by which the time of a verify varies."""
_MOST_POSITIONS = 132
"""Of a run's first rounds, blocks and bonus tokens."""
_LEAST_SPREAD = 1e-9
_AGREEMENTS = (0.01, 0.999)
"""Least and most per position: nothing is certain."""


class Blocks(NamedTuple):
    """What upstream hands down to a stage, by the length of the block that is waited for."""

    times_us: Floats
    """Until a block is there."""
    num_tokens: Floats
    """Proposals that it then has, on average."""
    devices_us: Floats
    """Time of all devices that went into it."""
    unit_us: Floats
    """In which upstream makes what it hands down at a time from then on,"""
    unit_tokens: Floats
    """and how much that is."""
    held: Floats
    """Share of what is under way that goes on when upstream hears of a rejection: a forward, not
    the waiting for proposals."""
    spread: Floats
    """Variance of the number of tokens, per token: a unit may be one token or a dozen."""

    @classmethod
    def drawn(cls, times_us: Floats) -> Self:
        """By a drafter, which draws a block in so much time, and parts of one."""
        drawn, lengths, ones = times_us[None], LENGTHS[None], np.ones((1, len(LENGTHS)))
        return cls(drawn, lengths, drawn, drawn, lengths, ones, 0.0 * ones)

    @classmethod
    def of_rounds(
        cls,
        num_rounds: Floats,
        spread: Floats,
        first_us: Floats,
        time_us: Floats,
        num_tokens: Floats,
        devices_us: Floats,
        held: Floats,
    ) -> Self:
        """By stages that need so many rounds for each length; the first begins with an upstream
        at rest, all others are as rounds are in the mean."""
        one = np.ones_like(num_rounds)
        return cls(
            first_us + time_us * (num_rounds - 1),
            num_tokens * num_rounds,
            devices_us * num_rounds,
            time_us * one,
            num_tokens * one,
            held * one,
            spread * one,
        )

    @classmethod
    def joined(cls, rows: Sequence[tuple[Self, int]]) -> Self:
        """One way each of several."""
        return cls(*(np.array([of[k][row] for of, row in rows]) for k in range(len(cls._fields))))

    def more_us(self, num_tokens: Floats) -> Floats:
        """Until so many more are there."""
        token_us = self.unit_us / self.unit_tokens
        # The last unit is a whole one.
        last_us = np.maximum(0.0, self.times_us[..., -1:] - LENGTHS[-1] * token_us)
        more_us: Floats = num_tokens * token_us + (num_tokens > 0) * last_us
        return more_us


@dataclass(frozen=True, slots=True)
class Taking:
    """How a stage takes proposals, by the length of the block that it waits for."""

    burst: Floats
    """So many it takes at most."""
    window: Floats
    """So far upstream drafts beyond the stage's own tokens."""

    @property
    def is_ahead(self) -> npt.NDArray[np.bool_]:
        """Whether upstream drafts the next block during a verify."""
        is_ahead: npt.NDArray[np.bool_] = self.window > self.burst
        return is_ahead


class Verify:
    """What verifies cost and yield.

    Args:
        hop_us: between upstream and the stage, there and back, shape [ways, 1].
        times_us: by the number of proposals, from 1 on, as in ``LENGTHS``.
        slower: by so many times, in each way that the stage takes proposals.
        curves: agreement with upstream, one per way.
        blocks: what upstream hands down.
    """

    __slots__ = ("_slower", "_times_us", "alike", "hop_us", "sum_alike")

    def __init__(
        self,
        hop_us: Floats,
        times_us: Floats,
        slower: Floats,
        curves: Sequence[Curve],
        blocks: Blocks,
    ) -> None:
        self.hop_us = hop_us
        self._times_us = Interpolated(times_us, first=1)
        self._slower = slower
        survival = _survival(curves)
        self.alike = _in_the_mean(survival, blocks)
        """Chance that the first so many tokens of upstream stand,"""
        self.sum_alike = _in_the_mean(survival.cumsum(axis=1), blocks)
        """and that of 0, 1, ... and so many tokens in sum: what a round of so many yields."""

    def time_us(self, num_proposals: Floats) -> Floats:
        """Of a forward."""
        return self._slower * self._times_us.at(num_proposals)


def _survival(curves: Sequence[Curve]) -> Floats:
    """Chances that the first 0, 1, ... tokens of upstream all stand, shape [ways, positions];
    beyond what is known of a pair it agrees as at the last position."""
    known = np.array([curve.conditional for curve in curves])
    conditional = np.empty((len(curves), _MOST_POSITIONS))
    conditional[:, : known.shape[1]] = known
    conditional[:, known.shape[1] :] = known[:, -1:]
    some = np.array([[max(1 - curve.empty, _AGREEMENTS[0])] for curve in curves])
    survival = np.ones((len(curves), _MOST_POSITIONS + 1))
    np.cumprod(conditional.clip(*_AGREEMENTS), axis=1, out=survival[:, 1:])
    survival[:, 1:] *= some
    return survival


def _in_the_mean(values: Floats, blocks: Blocks) -> Interpolated:
    """Of a function of the number of tokens, over the numbers that upstream hands down where so
    many are expected: two of them, of that mean and variance, none fewer than a token a unit."""
    exact = Interpolated(values)
    spread, unit = blocks.spread[:, :1], blocks.unit_tokens[:, :1]
    if not spread.any():
        return exact
    expected = np.arange(values.shape[1], dtype=np.float64)
    variance = spread * expected
    below = np.minimum(np.sqrt(variance), expected * (1 - 1 / unit))
    above = variance / np.maximum(below, _LEAST_SPREAD)
    few, many = exact.at(expected - below), exact.at(expected + above)
    return Interpolated(few + (many - few) * below / np.maximum(below + above, _LEAST_SPREAD))


class Round(NamedTuple):
    """Means over the rounds of a stage."""

    time_us: Floats
    num_tokens: Floats
    """That it yields."""
    num_proposals: Floats
    first_us: Floats
    """Time of one that begins with an upstream at rest."""


class _Made(NamedTuple):
    """What upstream has made some time after its last block left."""

    num_tokens: Floats
    more_tokens: Floats
    """With what it is at."""
    rest_us: Floats
    """Until that is there; 0 when the window is full."""
    is_full: npt.NDArray[np.bool_]
    behind_us: Floats
    """How long it has been at it."""


def mean_round(blocks: Blocks, taking: Taking, verify: Verify, goes_on: Floats) -> Round:
    """The mean round of stages whose upstreams go on during verifies.

    Args:
        goes_on: share of the rounds behind which upstream can go on if all has stood, shape
            [ways, 1].
    """
    run = _Run(verify, np.maximum(goes_on, _AGREEMENTS[0]))
    num = np.minimum(blocks.num_tokens, taking.burst)
    left = blocks.num_tokens - num
    verify_us = verify.time_us(num)
    fresh = _made(blocks, verify_us + verify.hop_us, taking.window - blocks.num_tokens)
    first_us = verify.hop_us + blocks.times_us + verify_us
    run.add(first_us + fresh.rest_us * blocks.held, num)
    behind_us: Floats | float = 0.0
    for _ in range(_ROUNDS - 1):
        made = _made(blocks, behind_us + verify_us, taking.window - num - left)
        # One of them is the bonus token.
        ready = np.maximum(left + made.num_tokens - 1, 0)
        soon = np.maximum(left + made.more_tokens - 1, 0)
        is_ready = ready >= LENGTHS
        missing_us = blocks.more_us(np.maximum(LENGTHS - soon, 0))
        wait_us = np.where(made.is_full, verify.hop_us, made.rest_us) + missing_us
        have = np.where(is_ready, ready, np.maximum(soon, LENGTHS))
        num = np.minimum(have, taking.burst)
        left, verify_us = have - num, verify.time_us(num)
        behind_us = is_ready * made.behind_us
        run.add(~is_ready * wait_us + verify_us, num)
    return run.mean(first_us)


def _made(blocks: Blocks, elapsed_us: Floats, room: Floats) -> _Made:
    """``room``: for so many tokens there is a window."""
    full_us = blocks.more_us(np.maximum(room, 0.0))
    is_full = elapsed_us >= full_us
    units = _units(elapsed_us / blocks.unit_us)
    num_tokens = np.where(is_full, room, np.minimum(units * blocks.unit_tokens, room))
    more_tokens = np.minimum(num_tokens + blocks.unit_tokens, room)
    is_at_it = ~is_full
    rest_us = is_at_it * (np.minimum((units + 1) * blocks.unit_us, full_us) - elapsed_us)
    behind_us = is_at_it * (elapsed_us - units * blocks.unit_us)
    return _Made(num_tokens, more_tokens, rest_us, is_full, behind_us)


def _units(elapsed: Floats) -> Floats:
    """Whole units in a time, in the mean over times that vary a little: no choice shall rest on
    the last unit's being there just in time."""
    early, late = elapsed * (1 - _JITTER), elapsed * (1 + _JITTER)
    units: Floats = (_sum_of_units(late) - _sum_of_units(early)) / (late - early)
    return units


def _sum_of_units(until: Floats) -> Floats:
    """The integral of the whole numbers of units up to then."""
    units = np.floor(until)
    total: Floats = units * (until - (units + 1) / 2)
    return total


class _Run:
    """Rounds from one rejection to the next, each as often as it comes to it."""

    def __init__(self, verify: Verify, goes_on: Floats) -> None:
        self._verify = verify
        self._goes_on = goes_on
        self._chances: list[Floats] = [np.ones(())]
        """That it comes to each of the rounds and one more."""
        self._rounds: list[tuple[Floats, Floats, Floats]] = []
        """Their times, tokens and proposals."""
        self._behind: Floats = np.zeros(())
        """So many tokens of upstream have stood: where text is easy it goes on to be easy."""
        self._alike: Floats = np.ones(())
        """The chance of that, and the sum of the chances of fewer."""
        self._total: Floats = np.ones(())

    def add(self, time_us: Floats, num_proposals: Floats) -> None:
        """The next round."""
        # The first token of a round is the verifier's own answer to the rejection, or the bonus.
        end = self._behind + num_proposals
        total, alike = self._verify.sum_alike.at(end), self._verify.alike.at(end + 1)
        self._rounds.append((time_us, 1 + (total - self._total) / self._alike, num_proposals))
        self._chances.append(self._chances[-1] * self._goes_on * (alike / self._alike))
        self._behind, self._alike, self._total = end + 1, alike, total + alike

    def mean(self, first_us: Floats) -> Round:
        """Its last two rounds alternate for as long as all stands."""
        *chances, before, _, after = self._chances
        again = 1 - after / before
        weights = [*chances, before / again, self._chances[-2] / again]
        count = sum(weights)
        time_us, num_tokens, num_proposals = (
            sum(weight * each for weight, each in zip(weights, quantity, strict=True)) / count
            for quantity in zip(*self._rounds, strict=True)
        )
        return Round(time_us, num_tokens, num_proposals, first_us)
