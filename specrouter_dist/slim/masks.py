"""What may be left out of a target, and how much of it that is."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specrouter_dist.errors import RequestError

Mask = frozenset[str]
"""Parts that are left out: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0."""

_KINDS = ("attention", "mlp")


@dataclass(frozen=True, slots=True)
class MaskSpace:
    """The masks of a target of so many layers. The first and the last layer are kept."""

    num_layers: int

    @property
    def parts(self) -> tuple[str, ...]:
        """All that may be left out, from the first layer on."""
        return self.parts_of("attention", "mlp")

    def parts_of(self, *kinds: str) -> tuple[str, ...]:
        """The same of these kinds alone."""
        layers = range(1, self.num_layers - 1)
        return tuple(f"{layer}.{kind}" for layer in layers for kind in kinds)

    def num_parts(self, skip: float) -> int:
        """How many parts a budget is; attention and MLP are half a layer each.

        Args:
            skip: share of the layers that is left out.

        Raises:
            RequestError: it is no part at all, or more than may be left out.
        """
        of_all, most = 2 * self.num_layers, len(self.parts)
        count = round(skip * of_all)
        if not 1 <= count <= most:
            right = f"{1 / of_all:.2g} to {most / of_all:.2g}" if most else "no value"
            raise RequestError(
                f"skip: {skip:g} of {self.num_layers} layers are {count} of their {of_all} parts; "
                f"the first and the last layer are kept, so accepted: {right}",
                field="skip",
            )
        return count

    def random(self, num_parts: int, generator: np.random.Generator) -> Mask:
        """A mask of so many parts, each as likely as any other."""
        return frozenset(generator.permutation(self.parts)[:num_parts].tolist())

    def swaps(self, mask: Mask) -> Iterator[Mask]:
        """Masks in which one part has taken the place of another."""
        for kept in self.parts:
            if kept not in mask:
                yield from (mask - {left_out} | {kept} for left_out in sorted(mask))

    def vector(self, mask: Mask) -> npt.NDArray[np.float64]:
        """1 for what is left out, 0 for what is kept, shape [number of parts]."""
        return np.array([float(part in mask) for part in self.parts])

    def in_order(self, mask: Collection[str]) -> tuple[str, ...]:
        """As a pool file lists them."""
        return tuple(part for part in self.parts if part in mask)


def count_of(mask: Collection[str], kind: str) -> int:
    """How many parts of this kind are left out."""
    assert kind in _KINDS
    return sum(part.endswith(f".{kind}") for part in mask)
