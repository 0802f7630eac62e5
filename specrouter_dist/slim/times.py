"""What forwards of a target cost without some of its parts: from three profiles, for any mask.

The layers of a model are alike, so a part's time is that of its kind: what all the attentions that
may be left out take together, and all the MLPs, over their number. Measured once; the masks that
were found are profiled themselves.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from tqdm import tqdm

from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.slim import SlimEngine
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.slim.masks import Mask, MaskSpace, count_of
from specrouter_dist.worker.profiling import profile

_TURNS = 4
_LEAST_SHARE = 0.02
"""Of the whole model's time; embedding, norm and head are always computed."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Of one kind of step, in microseconds."""

    whole_us: float
    attention_us: float
    """Of one attention,"""
    mlp_us: float
    """and of one MLP."""

    def without(self, mask: Mask) -> float:
        """Time of the step without the parts of ``mask``."""
        saved_us = count_of(mask, "attention") * self.attention_us
        saved_us += count_of(mask, "mlp") * self.mlp_us
        return max(_LEAST_SHARE * self.whole_us, self.whole_us - saved_us)


PartTimes = Mapping[ForwardKey, StepTimes]
"""By kind of step; the member is not named."""
_Times = dict[ForwardKey, float]


def times_of(profiles: Observations, member: str) -> _Times:
    """Of one member's steps, in microseconds; the member is not named."""
    return {
        key._replace(member=""): times.total_us / times.count
        for key, times in profiles.forwards.items()
        if key.member == member
    }


def measure_parts(target: FastEngine, space: MaskSpace, known: _Times) -> PartTimes:
    """Of all the target's layers, of the same without attention, and without MLPs.

    Args:
        known: the target's own times, on whose scale all others are told.
    """
    masks = [frozenset(), *(frozenset(space.parts_of(kind)) for kind in ("attention", "mlp"))]
    whole, *others = _profiled(target, masks, known)
    num_layers = space.num_layers - 2
    return {
        key: StepTimes(us, *(max(0.0, us - rest[key]) / num_layers for rest in others))
        for key, us in whole.items()
        if all(key in rest for rest in others)
    }


def measure_masked(
    name: str, target: FastEngine, masks: Sequence[Mask], known: _Times
) -> list[Observations]:
    """Start-up profiles of slim members of that name; ``known`` as for :func:`measure_parts`."""
    return [_profile_of(name, times_us) for times_us in _profiled(target, masks, known)]


def expected_profile(name: str, parts: PartTimes, mask: Mask) -> Observations:
    """The start-up profile of a slim member of that name, as the parts' times say."""
    return _profile_of(name, {key: times.without(mask) for key, times in parts.items()})


def _profiled(target: FastEngine, masks: Sequence[Mask], known: _Times) -> list[_Times]:
    """Of each mask, by turns with the target itself: of each step the fastest time counts, whatever
    else the machine did. And machines become faster and slower in minutes: the target's times of
    now tell by how much this one has, since ``known`` was measured."""
    engines = [target, *(SlimEngine(target, mask) for mask in masks)]
    found: list[_Times] = [{} for _ in engines]
    turns = list(product(range(_TURNS), zip(engines, found, strict=True)))
    for _, (engine, fastest_us) in tqdm(turns, desc="step times", leave=False):
        profiled = profile("", engine, drafts=engine is not target)
        for key, us in times_of(profiled, "").items():
            fastest_us[key] = min(us, fastest_us.get(key, us))
    now_us, *others = found
    scale = statistics.median(known[key] / us for key, us in now_us.items() if key in known)
    return [{key: scale * us for key, us in times_us.items()} for times_us in others]


def _profile_of(name: str, times_us: _Times) -> Observations:
    forwards = {key._replace(member=name): ForwardTimes(1, us) for key, us in times_us.items()}
    return Observations(is_profile=True, forwards=forwards)
