"""Loss and agreement curves from the training logs."""

from __future__ import annotations

import json
from pathlib import Path

_SMOOTHING = 0.98  # of the exponential mean drawn through the training loss


def draw_curves(folder: Path) -> Path | None:
    """Draw every log of ``folder`` into ``curves.png``; None where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    logs = sorted(folder.glob("*.jsonl"))
    figure = Figure(figsize=(5 * max(1, len(logs)), 6), layout="constrained")
    axes = figure.subplots(2, max(1, len(logs)), squeeze=False)
    for column, path in enumerate(logs):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        scores = [(line["step"], line["dev"]) for line in lines if "dev" in line]
        axes[0][column].plot([step for step, _ in losses], _smooth([loss for _, loss in losses]))
        axes[0][column].set(title=path.stem, ylabel="training loss")
        axes[1][column].plot([step for step, _ in scores], [score for _, score in scores])
        axes[1][column].set(xlabel="step", ylabel="dev score")
    target = folder / "curves.png"
    figure.savefig(target, dpi=100)
    return target


def _smooth(values: list[float]) -> list[float]:
    smoothed: list[float] = []
    for value in values:
        before = smoothed[-1] if smoothed else value
        smoothed.append(_SMOOTHING * before + (1 - _SMOOTHING) * value)
    return smoothed
