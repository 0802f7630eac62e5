"""What forwards of a target cost without some of its parts: from three profiles, for any mask.

The layers of a model are alike, so a part's time is that of its kind: what all the attentions that
may be left out take together, and all the MLPs, over their number. Measured once; the masks that
were found are profiled themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.slim import SlimEngine
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.slim.masks import Mask, MaskSpace, count_of
from specrouter_dist.worker.profiling import profile

_TURNS = 2
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


def measure_parts(target: FastEngine, space: MaskSpace) -> PartTimes:
    """Profiles the target's layers, and the same without attention and without MLPs, by turns: of
    each step the fastest time counts, whatever else the machine did."""
    masks = (), space.parts_of("attention"), space.parts_of("mlp")
    found: list[dict[ForwardKey, float]] = [{} for _ in masks]
    for _, (mask, fastest_us) in product(range(_TURNS), zip(masks, found, strict=True)):
        for key, times in profile("", SlimEngine(target, mask), drafts=True).forwards.items():
            fastest_us[key] = min(times.total_us, fastest_us.get(key, times.total_us))
    whole, *others = found
    num_layers = space.num_layers - 2
    return {
        key: StepTimes(us, *(max(0.0, us - rest[key]) / num_layers for rest in others))
        for key, us in whole.items()
        if all(key in rest for rest in others)
    }


def expected_profile(name: str, parts: PartTimes, mask: Mask) -> Observations:
    """The start-up profile of a slim member of that name, as the parts' times say."""
    return Observations(
        is_profile=True,
        forwards={
            key._replace(member=name): ForwardTimes(1, times.without(mask))
            for key, times in parts.items()
        },
    )
