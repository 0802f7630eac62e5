"""What forwards of a target cost without some of its parts: from three profiles, for any mask.

The layers of a model are alike, so a part's time is that of its kind: what all the attentions that
may be left out take together, and all the MLPs, over their number. Measured once; the masks that
were found are profiled themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.slim import SlimEngine
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.slim.masks import Mask, MaskSpace, count_of
from specrouter_dist.worker.profiling import profile

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
    """Profiles the target's layers, and the same without attention and without MLPs."""
    whole, no_attention, no_mlp = (
        profile("", SlimEngine(target, mask), drafts=True).forwards
        for mask in ((), space.parts_of("attention"), space.parts_of("mlp"))
    )
    num_layers = space.num_layers - 2

    def part_us(key: ForwardKey, rest: Mapping[ForwardKey, ForwardTimes]) -> float:
        return max(0.0, whole[key].total_us - rest[key].total_us) / num_layers

    return {
        key: StepTimes(times.total_us, part_us(key, no_attention), part_us(key, no_mlp))
        for key, times in whole.items()
        if key in no_attention and key in no_mlp
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
