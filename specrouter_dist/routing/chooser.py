"""When a kind of requests gets another chain, and the ladder of plans that comes with it."""

from collections.abc import Container, Sequence
from dataclasses import replace
from math import log2

from specrouter_dist.config import Plan
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.observations import PairKey
from specrouter_dist.routing.planner import Candidate, Planner, Prediction, to_plan
from specrouter_dist.routing.plans import Ladder, Rung
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.switching import Switching
from specrouter_dist.routing.traffic import Traffic

_HYSTERESIS = 0.05
"""A chain replaces the present one when it is predicted to be faster by this share."""
_SURPRISE = 0.25
"""By so much it must be predicted to be faster if it was not the best one a turn before."""
_LEAST_GAIN = 0.05
"""What a chain must promise over the target alone for one request: it costs more of the machine."""
_LEAST_GAIN_PER_DOUBLING = 0.02
"""Which is so much more with each doubling of the requests that run, since predictions are off by
more,"""
_MOST_LEAST_GAIN = 0.12
"""and at most this."""
_SCALES = (0.2, 0.4, 0.6, 0.8, 1.15)
"""Agreement of requests, relative to the usual, that have a plan of their own."""
_SCALED_CHAINS = 5
"""Chains that are weighed for these, by the order of the dynamic programme."""


class Chooser:
    """Weighs the planner's candidates against what is in force."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._challengers: dict[tuple[Traffic, int], tuple[str, ...]] = {}
        """The best chain as last weighed, by kind of request and load."""
        self.waiting: set[tuple[Traffic, int]] = set()
        """Where a better chain was found that is to be confirmed in the next turn."""

    def keep(self, kinds: Container[Traffic]) -> None:
        """Forgets what was weighed for others."""
        self._challengers = {of: way for of, way in self._challengers.items() if of[0] in kinds}
        self.waiting = {of for of in self.waiting if of[0] in kinds}

    def better(self, plan: Plan, ways: Sequence[Candidate], regime: Regime) -> Candidate | None:
        """What is to replace ``plan``; None: nothing. ``ways``: all candidates, best first."""
        best = _worth_it(ways, regime)
        ours = self._planner.predict(plan, regime)
        if ours is None or self._is_better(best, plan, ours, regime):
            return best
        return None

    def _is_better(self, best: Candidate, plan: Plan, ours: Prediction, regime: Regime) -> bool:
        """By far now, or by less if it was the best in the last turn, too: what was measured last
        may have been a hiccup."""
        cell = regime.traffic, regime.num_sessions
        before, self._challengers[cell] = self._challengers.get(cell), best.chain
        share = _price_us(best, regime) / _price_us(ours, regime)
        # A chain is left for the target alone as soon as it promises a loss.
        least = 1.0 if len(best.chain) == 1 else 1 - _HYSTERESIS
        is_confirmed = before is None or best.chain in (before, plan.chain)
        is_taken = share < (least if is_confirmed else 1 - _SURPRISE)
        if share < least and not is_taken:
            self.waiting.add(cell)
        else:
            self.waiting.discard(cell)
        return is_taken

    def ladder(
        self, usual: Candidate, ways: Sequence[Candidate], regime: Regime, number: int
    ) -> Ladder:
        """What is best for requests that agree more or less; the usual chain where it is as good
        as any, since a change costs prefill."""
        rungs = [self._rung(usual, ways, regime, number)]
        for scale in _SCALES if len(usual.chain) > 1 else ():
            scaled = replace(regime, scale=scale)
            ways = self._planner.candidates(scaled, _SCALED_CHAINS)
            best = _worth_it(ways, scaled)
            same = next((way for way in ways if way.chain == usual.chain), None)
            same = same or self._planner.evaluate(usual.chain, scaled)
            assert same is not None, "the usual chain is a candidate"
            is_as_good = _price_us(same, scaled) * (1 - _HYSTERESIS) < _price_us(best, scaled)
            stays = is_as_good and len(best.chain) > 1
            rungs.append(self._rung(same if stays else best, (*ways, same), scaled, number))
        return Ladder(tuple(rungs))

    def _rung(self, way: Candidate, ways: Sequence[Candidate], regime: Regime, number: int) -> Rung:
        """``ways``: chains that requests of this scale may come from."""
        plan = to_plan(way, number)
        prices_us = {each.chain: _price_us(each, regime) for each in ways}
        switching = Switching.to(plan.chain, prices_us, regime, self._planner.latency)
        if len(plan.chain) == 1:
            return Rung(regime.scale, plan, switching=switching)
        draft, verifier = plan.chain[-2:]
        if match_tokens := plan.edges[-1].match_tokens:
            _, draft = own_text_names(draft, match_tokens)
        pair = PairKey(draft, verifier, regime.traffic)
        return Rung(regime.scale, plan, self._planner.agreement.curve(pair).mean, switching)


def _worth_it(ways: Sequence[Candidate], regime: Regime) -> Candidate:
    """The best, or the target alone where the gain is too small. ``ways``: best first."""
    best = ways[0]
    alone = next((way for way in ways if len(way.chain) == 1), best)
    gain = _LEAST_GAIN + _LEAST_GAIN_PER_DOUBLING * log2(regime.num_sessions)
    least = 1 - min(gain, _MOST_LEAST_GAIN)
    is_worth_it = _price_us(best, regime) < least * _price_us(alone, regime)
    return best if is_worth_it else alone


def _price_us(way: Candidate | Prediction, regime: Regime) -> float:
    return regime.price_us(way.predicted_us, way.devices_us)
