"""The shares of all workers as stacked bars."""

from collections.abc import Sequence
from pathlib import Path

from specrouter_dist.tracing.records import Kind
from specrouter_dist.tracing.shares import WorkerShares

_COLOURS = {
    Kind.FORWARD: "#2a6f97",
    Kind.SAMPLING: "#61a5c2",
    Kind.PYTHON: "#e09f3e",
    Kind.SERIALISATION: "#9e2a2b",
    Kind.HOP: "#7b2cbf",
    Kind.WAITING: "#dee2e6",
}


def draw_shares(shares: Sequence[WorkerShares], path: Path) -> bool:
    """Draws an SVG; False where matplotlib is missing.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = [worker.worker for worker in shares]
    left = [0.0] * len(shares)
    for kind, colour in _COLOURS.items():
        widths = [100 * worker.share(kind) for worker in shares]
        axes.barh(names, widths, left=left, color=colour, label=kind.value)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    # The first worker on top, as in the table.
    axes.invert_yaxis()
    axes.set(xlabel="% of the worker's time", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(_COLOURS), frameon=False)
    figure.savefig(path)
    return True
