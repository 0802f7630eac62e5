"""Results of benchmarks.beside as Markdown, and as a plot.

    python -m benchmarks.tables result.json ... --out benchmarks/RESULTS.md --plot docs/beside.svg

The Markdown has a section per result. The plot is of the first one; it needs matplotlib.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = (
    "arm",
    "tokens/s",
    "TTFT ms p50 / p95 / p99",
    "TPOT ms p50 / p95 / p99",
    "acceptance",
    "CPU ms/token",
    "RSS MiB",
)
_INTRODUCTION = """# Results

Written by `python -m benchmarks.tables`; not to be edited. Medians over passes with 95 % bootstrap
intervals. TTFT: time to the first token; TPOT: time per token behind it.
"""


def to_markdown(result: Mapping[str, Any]) -> str:
    """One result's section."""
    arguments = result["arguments"]
    versions = {"ours": result["versions"], **result["worker_versions"]}
    lines = [
        f"## {arguments['pool']}, {arguments['split']}",
        "",
        f"{result['cpu']}, {result['num_cpus']} CPUs; commit {result['commit']}; "
        f"{arguments['passes']} passes of {arguments['max_tokens']} new tokens at most.",
        "",
        *(f"- {system}: {_pairs(found)}" for system, found in versions.items()),
        "",
    ]
    for name, found in result["results"].items():
        lines += [f"### {name}", "", *_table(found["arms"]), "", *_ratios(found["ratios"])]
    if result["absent"]:
        reasons = result["absent"].items()
        lines += ["### Absent", "", *(f"- {arm}: {_one_line(why)}" for arm, why in reasons), ""]
    return "\n".join(lines)


def _table(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_cells, arms)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _cells(arm: Mapping[str, Any]) -> tuple[str, ...]:
    acceptance = arm["draft_acceptance_rate"]
    return (
        arm["arm"],
        _interval(arm["tokens_per_second"], 1),
        _percentiles(arm["time_to_first_token_ms"]),
        _percentiles(arm["time_per_output_token_ms"]),
        "" if acceptance is None else f"{acceptance:.2f}",
        f"{arm['cpu_ms_per_token']:.2f}",
        f"{arm['rss_mib']:.0f}",
    )


def _ratios(ratios: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        f"- {arm} over {other}: **{_interval(interval, 2)}**"
        for arm, others in ratios.items()
        for other, interval in others.items()
    ]
    return [*lines, ""] if lines else []


def _interval(interval: Mapping[str, float], digits: int) -> str:
    median, low, high = (f"{interval[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _percentiles(percentiles: Mapping[str, float]) -> str:
    return " / ".join(f"{value:.2f}" for value in percentiles.values())


def _pairs(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _one_line(text: str) -> str:
    """The last line of what a worker wrote says why."""
    first, *others = text.splitlines()
    return f"{first}: {others[-1].strip()}" if others else first


def plot(result: Mapping[str, Any], file: Path) -> None:
    """Tokens per second of every arm, a panel per temperature.

    Raises:
        SystemExit: there is no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("a plot needs matplotlib: pip install matplotlib") from None
    panels = result["results"]
    most = max(len(found["arms"]) for found in panels.values())
    figure = Figure(figsize=(9, len(panels) * (0.8 + 0.35 * most)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, (name, found) in zip(axes, panels.items(), strict=True):
        arms = found["arms"][::-1]
        speeds = [arm["tokens_per_second"] for arm in arms]
        medians = [speed["median"] for speed in speeds]
        errors = [
            [speed["median"] - speed["low"] for speed in speeds],
            [speed["high"] - speed["median"] for speed in speeds],
        ]
        colours = ["tab:blue" if arm["system"] == "ours" else "tab:grey" for arm in arms]
        axis.barh([arm["arm"] for arm in arms], medians, xerr=errors, color=colours)
        axis.set_title(f"{name}, {result['cpu']}, commit {result['commit']}", fontsize=9)
        axis.set_xlabel("tokens per second, one stream")
    figure.savefig(file)


def main() -> None:
    """Reads results, writes files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of benchmarks.beside")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/RESULTS.md"))
    parser.add_argument("--plot", type=Path, help="an image file, e.g. docs/beside.svg")
    arguments = parser.parse_args()
    results = [json.loads(file.read_text(encoding="utf-8")) for file in arguments.results]
    sections = [_INTRODUCTION, *map(to_markdown, results)]
    arguments.out.write_text("\n".join(sections), encoding="utf-8")
    if arguments.plot is not None:
        plot(results[0], arguments.plot)


if __name__ == "__main__":
    main()
