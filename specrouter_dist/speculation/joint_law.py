"""Which members pick the same token: one law for all of them that has the stated agreements.

After any prefix the members fall into groups that pick the same token. The joint law gives each
way to group them (a set partition) a probability, such that members i and j are in one group
with the stated agreement. Of the laws that do, it is the one with the most entropy: pairs that
are not stated are as free as the stated ones leave them. It is found by iterative proportional
fitting: the law is scaled to each stated pair in turn, until all hold (Deming and Stephan 1940).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from specrouter_dist.errors import ConfigError

_MAX_SWEEPS = 4000
_EXACT = 1e-9
_TOLERANCE = 2e-3
"""Stated agreements that are just possible are approached slowly; so near is near enough."""

Grouping = tuple[int, ...]
"""Per member the number of its group, counted from 0 in order of appearance."""


def groupings(num_members: int) -> list[Grouping]:
    """All ways to group so many members."""
    found: list[Grouping] = [()]
    for _ in range(num_members):
        found = [(*g, group) for g in found for group in range(max(g, default=-1) + 2)]
    return found


def fit(
    names: Sequence[str], agreements: Mapping[tuple[int, int], float], where: str = ""
) -> NDArray[np.float64]:
    """Probability of each of ``groupings(len(names))``, float64, with the stated agreements.

    Args:
        names: of the members, for the error.
        agreements: by pair of indices into ``names``; what is left out follows.
        where: these agreements hold, for the error.

    Raises:
        ConfigError: no law has all of these agreements.
    """
    ways = np.array(groupings(len(names)))
    together = {(i, j): ways[:, i] == ways[:, j] for i, j in agreements}
    law = np.full(len(ways), 1 / len(ways))
    worst, error = (0, 0), 0.0
    for _ in range(_MAX_SWEEPS):
        worst, error = (0, 0), 0.0
        for pair, wanted in agreements.items():
            present = float(law[together[pair]].sum())
            if abs(present - wanted) > error:
                worst, error = pair, abs(present - wanted)
            law = _scaled(law, together[pair], present, wanted)
        if error < _EXACT:
            break
    if error > _TOLERANCE:
        a, b = (names[i] for i in worst)
        raise ConfigError(
            f"agreements: {a!r} with {b!r} at {agreements[worst]:.3g}{where} contradicts the "
            "others: if two members each agree with a third, they cannot disagree more often than "
            "the third disagrees with either",
            field="agreements",
        )
    return law


def _scaled(
    law: NDArray[np.float64], inside: NDArray[np.bool_], present: float, wanted: float
) -> NDArray[np.float64]:
    up = wanted / present if present > 0 else 0.0
    down = (1 - wanted) / (1 - present) if present < 1 else 0.0
    return np.where(inside, law * up, law * down)
