"""The figures of benchmarks.tasks_report as pictures."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_BAR = 0.8
"""Width of a group of bars."""


def draw_agreement(results: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Of each drafter by task, a panel for each split and temperature."""
    panels = {
        f"{split}, {temperature}": found["by_task"]
        for split, by_temperature in results.items()
        for temperature, found in by_temperature.items()
    }
    figure = Figure(figsize=(10, 3 * len(panels)), layout="constrained")
    for axes, (title, rows) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        heights = {
            drafter: [row["agreement"][drafter] for row in rows.values()]
            for drafter in next(iter(rows.values()))["agreement"]
        }
        _grouped(axes, list(rows), heights)
        axes.set(title=title, ylabel="agreement with the target", ylim=(0, 1))
    figure.savefig(file)


def draw_speed(results: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Of each arm over the target alone, a panel for each temperature."""
    figure = Figure(figsize=(10, 3.5 * len(results)), layout="constrained")
    for axes, (title, found) in zip(
        figure.subplots(len(results), squeeze=False)[:, 0], results.items(), strict=True
    ):
        speeds = {task: row["tokens_per_second"] for task, row in found["rows"].items()}
        heights = {
            arm: [own[arm]["median"] / own["alone"]["median"] for own in speeds.values()]
            for arm in next(iter(speeds.values()))
            if arm != "alone"
        }
        _grouped(axes, list(speeds), heights)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set(title=title, ylabel="speed, x the target alone")
    figure.savefig(file)


def draw_curves(folders: Iterable[Path], file: Path) -> None:
    """Agreement on the prompts that stop the training, by step: a line for each drafter whose log
    is in one of ``folders``, which ``tasks align`` has filled. Without any, nothing."""
    logs = [log for folder in folders for log in sorted(folder.glob("training/*/*.jsonl"))]
    if not logs:
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for log in logs:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        scores = [(line["step"], line["dev"]) for line in lines if "dev" in line]
        steps, agreements = [step for step, _ in scores], [dev for _, dev in scores]
        axes.plot(steps, agreements, marker=".", label=f"{log.parent.name}, {log.stem}")
    axes.set(xlabel="step", ylabel="agreement with the target, held-out prompts, T=0")
    axes.legend(fontsize="small")
    figure.savefig(file)


def _grouped(axes: Any, names: list[str], heights: Mapping[str, list[float]]) -> None:
    """A group of bars for each name."""
    width = _BAR / len(heights)
    for number, (label, own) in enumerate(heights.items()):
        axes.bar([at + number * width for at in range(len(names))], own, width, label=label)
    axes.set_xticks([at + (_BAR - width) / 2 for at in range(len(names))], names)
    axes.legend(fontsize="x-small", ncols=4)
