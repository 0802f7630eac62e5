"""The figures of benchmarks.tasks_report as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.task_speed import RATIOS

Row = Mapping[str, Any]


def to_markdown(result: Row) -> str:
    """All parts that were measured."""
    lines = [
        "# Drafters for tasks",
        "",
        f"{result['cpu']}, {result['num_cpus']} CPUs; commit {result['commit']}; pool "
        f"{result['arguments']['pool']}. Medians with 95 % bootstrap intervals.",
        *([f"The control is {control}."] if (control := result.get("control")) else []),
        "",
    ]
    for split, by_temperature in result.get("agreement", {}).items():
        lines += _agreement(split, by_temperature)
    for temperature, found in result.get("speed", {}).items():
        lines += _speed(temperature, found)
    for temperature, found in result.get("shift", {}).items():
        lines += _shift(temperature, found)
    lines.append(f"Texts that are not the target's: {result['num_differing']}.")
    return "\n".join(lines) + "\n"


def _agreement(split: str, by_temperature: Mapping[str, Row]) -> Iterator[str]:
    for temperature, found in by_temperature.items():
        drafters = list(found["all"]["agreement"])
        others = list(found["all"]["task_over"])
        yield f"## Agreement with the target, {split} prompts, {temperature}"
        yield ""
        head = ["", "prompts", "positions", *drafters, *(f"task over {name}" for name in others)]
        groups = (("by task", found["by_task"]), ("by label", found["by_label"]))
        rows = [(f"{name} ({by})", row) for by, own in groups for name, row in own.items()]
        yield from _table(
            head,
            [
                [
                    name,
                    str(row["num_prompts"]),
                    str(row["num_positions"]),
                    *(f"{row['agreement'][drafter]:.3f}" for drafter in drafters),
                    *(_gain(row["task_over"][other]) for other in others),
                ]
                for name, row in (*rows, ("all", found["all"]))
            ],
        )


def _speed(temperature: str, found: Row) -> Iterator[str]:
    rows = found["rows"]
    yield f"## Tokens per second, {temperature}, medians of {found['num_passes']} passes"
    yield ""
    arms = list(rows["all"]["tokens_per_second"])
    yield from _table(
        ["", *arms],
        [
            [task, *(f"{row['tokens_per_second'][arm]['median']:.0f}" for arm in arms)]
            for task, row in rows.items()
        ],
    )
    ratios = [f"{arm} over {other}" for arm, other in RATIOS]
    yield from _table(
        ["", *ratios],
        [[task, *(_interval(row["ratios"][r]) for r in ratios)] for task, row in rows.items()],
    )
    plans = found["plans_without_feedback"].items()
    yield f"Plans without feedback: {', '.join(f'{task}: {chain}' for task, chain in plans)}."
    yield ""


def _shift(temperature: str, found: Row) -> Iterator[str]:
    yield f"## A mixture that shifts half-way, {temperature}"
    yield ""
    halves = found["halves"]
    arms = list(halves[0]["tokens_per_second"])
    yield from _table(
        ["tasks", *(f"{arm}, tokens/s" for arm in arms), "until the task's drafter", "chains"],
        [
            [
                ", ".join(half["tasks"]),
                *(f"{half['tokens_per_second'][arm]:.0f}" for arm in arms),
                "; ".join(_until(*each) for each in half["until_own_drafter"].items()),
                ", ".join(f"{chain} {count}" for chain, count in half["chains"].items()),
            ]
            for half in halves
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _interval(interval: Mapping[str, float]) -> str:
    median, low, high = (f"{interval[key]:.2f}" for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _gain(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    median, low, high = (f"{100 * (interval[key] - 1):+.1f}" for key in ("median", "low", "high"))
    return f"{median} % [{low}, {high}]"


def _until(task: str, until: Mapping[str, float] | None) -> str:
    if until is None:
        return f"{task}: never"
    return f"{task}: request {until['num_requests']:.0f}, {until['seconds']:.1f} s"
