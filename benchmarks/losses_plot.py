"""Gain against loss of lossy outputs, a line per task."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.losses import LEAST_REDUCTION, MOST_DIFFERING, MOST_NLL, Arm

_PANELS = {
    "rejection_reduction": "rejection rate, below that of two levels",
    "times_lossless": "speed, x two levels without loss",
}


def draw(
    by_task: Mapping[str, Mapping[str, Mapping[str, Any]]], arms: Sequence[Arm], file: Path
) -> None:
    """Each slim member is a column. Filled: the mean NLL is up by no more than is wanted; the box:
    where the rest of the aim is reached."""
    lossy = [arm for arm in arms if arm.lossy is not None]
    slims = list(dict.fromkeys(arm.chain[-2] for arm in lossy))
    size = 1 + 4 * len(slims), 3.5 * len(_PANELS)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(_PANELS), len(slims), sharey="row", sharex=True, squeeze=False)
    for row, (key, label) in zip(grid, _PANELS.items(), strict=True):
        for axes, slim in zip(row, slims, strict=True):
            names = [arm.name for arm in lossy if arm.chain[-2] == slim]
            for number, (task, summaries) in enumerate(by_task.items()):
                _draw_task(axes, f"C{number}", task, [summaries[name] for name in names], key)
            axes.axhline(0.0 if key == "rejection_reduction" else 1.0, color="grey", linewidth=0.5)
            axes.set_title(slim)
        row[0].set_ylabel(label)
    for axes in grid[0]:
        height = max(LEAST_REDUCTION, axes.get_ylim()[1] - LEAST_REDUCTION)
        box = Rectangle((0, LEAST_REDUCTION), MOST_DIFFERING, height, color="green", alpha=0.15)
        axes.add_patch(box)
    for axes in grid[-1]:
        axes.set_xlabel("share of tokens that differ")
    grid[0][0].legend(fontsize="small")
    figure.savefig(file, dpi=120)


def _draw_task(
    axes: Axes, colour: str, task: str, summaries: Sequence[Mapping[str, Any]], key: str
) -> None:
    points = sorted(
        (each["share_differing"], _value(each[key]), each["nll_increase"] <= MOST_NLL)
        for each in summaries
    )
    xs, ys, fills = zip(*points, strict=True)
    axes.plot(xs, ys, color=colour, label=task)
    faces = [colour if is_filled else "white" for is_filled in fills]
    axes.scatter(xs, ys, edgecolors=colour, c=faces, zorder=3)


def _value(measured: Any) -> float:
    """The number, or the median where there is an interval; none where it is not known."""
    if measured is None:
        return nan
    return float(measured["median"] if isinstance(measured, Mapping) else measured)
