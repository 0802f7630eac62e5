"""A picture of a search: agreement against cost of every mask that was tried."""

from importlib.util import find_spec
from pathlib import Path

from specrouter_dist.errors import ConfigError
from specrouter_dist.slim.finding import Findings


def require_matplotlib() -> None:
    """
    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "--plot: matplotlib is not installed; pip install matplotlib", field="plot"
        )


def draw(findings: Findings, file: Path) -> None:
    """Masks that were tried by the times of their parts; the chosen ones and the pool's other
    drafters as they were measured on held-out texts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    scores = findings.trials.values()
    axes.scatter(
        [score.cost for score in scores],
        [score.agreement for score in scores],
        s=8,
        color="tab:grey",
        label="tried",
    )
    for one in findings.found:
        score = one.searched
        axes.scatter(score.cost, score.agreement, s=60, facecolors="none", edgecolors="black")
        score = one.held_out
        axes.scatter(score.cost, score.agreement, s=80, marker="*", label=one.name)
        if one.break_even is not None:
            axes.scatter(score.cost, one.break_even, marker="_", s=120, color="black")
    for other in findings.others:
        axes.scatter(other.cost, other.agreement, marker="s", label=other.name)
    axes.set(xlabel="cost: a step of one token, the target's is 1", ylabel="agreement with target")
    axes.set_title(
        "circles: chosen; stars and squares: on held-out texts; lines: from where it pays",
        fontsize=9,
    )
    axes.legend(fontsize="small")
    figure.savefig(file)
