"""What drafters for tasks bring: agreement, speed, a shift; tables, plots and all figures.

    python -m benchmarks.tasks_report --pool aligned/pool.yaml --control pooled/pooled

Writes ``report.json``, ``report.md`` and plots into ``--out``. The pool is what ``specrouter tasks
align`` has written, the control the drafter that ``specrouter tasks align --pooled`` has; where it
has written none, because none was better than the base drafter, that one is the control. What the
arms are: ``benchmarks/task_speed.py``. Nothing is measured on prompts of the train split.

Exit code 1: a text was not the target's.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import task_agreement, task_shift, task_speed
from benchmarks.arms import comparison_arguments
from benchmarks.known import own_state
from benchmarks.pools import with_slow_target, without_prefix_cache
from benchmarks.report import add_json_argument, print_report, report
from benchmarks.task_agreement import Models
from benchmarks.task_plots import draw_agreement, draw_curves, draw_speed
from benchmarks.task_speed import Arms
from benchmarks.task_tables import to_markdown
from benchmarks.told_prompts import (
    ToldPrompt,
    classifier_of,
    first_of_each,
    task_drafters,
    told_prompts,
)
from specrouter_dist.align.samples import MAX_PROMPT
from specrouter_dist.align.task_drafters import POOLED
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.validation import did_you_mean, one_of

PARTS = ("agreement", "speed", "shift")
_SPLITS = ("dev", "eval")
_SHORT = {"per_task": 1, "passes": 1, "warm": 1, "max_tokens": 8, "most_judged": 2, "per_half": 2}
_SHIFT_TASKS = 4
"""Most tasks of the shifting mixture, the first ones of the partition."""


def agreement(pool: Pool, checked: PoolReport, arguments: argparse.Namespace) -> dict[str, Any]:
    """By split and temperature."""
    control = arguments.control
    if control is not None and not control.is_dir():
        control = pool.directories[arguments.base]
    models = Models.load(pool, checked, arguments.base, control)
    results: dict[str, Any] = {}
    for split in _SPLITS:
        prompts = told_prompts(pool, arguments.data, split, MAX_PROMPT)
        tasks = sorted({prompt.task for prompt in prompts})
        judged = first_of_each(prompts, tasks, arguments.most_judged)
        results[split] = {
            f"T={t}": task_agreement.measure(models, judged, t, arguments.max_tokens)
            for t in tqdm(arguments.temperatures, desc=split, leave=False)
        }
    return results


def _measured_prompts(
    pool: Pool, checked: PoolReport, arguments: argparse.Namespace
) -> tuple[list[str], list[ToldPrompt]]:
    """The tasks that have prompts, and all prompts that leave the target room to answer."""
    room = checked.member(pool.config.target.name).context_tokens - arguments.max_tokens
    prompts = told_prompts(pool, arguments.data, arguments.split, room)
    told = {prompt.task for prompt in prompts}
    return [task for task in classifier_of(pool).names if task in told], prompts


def _arms(
    pool: Pool, arguments: argparse.Namespace, prompts: Sequence[ToldPrompt], temperature: float
) -> Arms:
    sampling = SamplingParams(temperature=temperature, max_tokens=arguments.max_tokens)
    drafters = task_drafters(pool)
    return Arms(pool.config.target.name, arguments.base, drafters, prompts, sampling)


def speed(pool: Pool, checked: PoolReport, arguments: argparse.Namespace) -> dict[str, Any]:
    """By temperature, all in one pool that runs."""
    tasks, prompts = _measured_prompts(pool, checked, arguments)
    chosen = first_of_each(prompts, tasks, arguments.per_task)
    with own_state(), open_backend(pool, checked, BackendName(arguments.backend)) as backend:
        return {
            f"T={t}": task_speed.measure(
                backend,
                _arms(pool, arguments, chosen, t),
                num_warm=arguments.warm,
                num_passes=arguments.passes,
            )
            for t in tqdm(arguments.temperatures, desc="speed", leave=False)
        }


def shift(pool: Pool, checked: PoolReport, arguments: argparse.Namespace) -> dict[str, Any]:
    """By temperature, each in a pool that has just started."""
    tasks, prompts = _measured_prompts(pool, checked, arguments)
    halves = task_shift.halves_of(prompts, tasks[:_SHIFT_TASKS], arguments.per_half)
    stream = [prompt for half in halves for prompt in half.prompts]
    results = {}
    for t in arguments.temperatures:
        with own_state(), open_backend(pool, checked, BackendName(arguments.backend)) as backend:
            arms = _arms(pool, arguments, stream, t)
            results[f"T={t}"] = task_shift.measure(backend, arms, halves)
    return results


def draw(results: dict[str, Any], pool: Pool, control: Path | None, out: Path) -> None:
    """A plot of each part, and the learning curves of the drafters."""
    if "agreement" in results:
        draw_agreement(results["agreement"], out / "agreement.svg")
    if "speed" in results:
        draw_speed(results["speed"], out / "speed.svg")
    folders = [pool.file.parent] if control is None else [pool.file.parent, control.parent]
    draw_curves(folders, out / "curves.svg")


def parse_arguments() -> argparse.Namespace:
    """What is measured, and how long."""
    parser = comparison_arguments(__doc__ or "")
    parser.set_defaults(pool="tiny-tasks")
    parser.add_argument(
        "--out", type=Path, default=Path("build/tasks"), help="a folder for report and plots"
    )
    parser.add_argument("--slow-target", action="store_true", help="drafters pay on any machine")
    parser.add_argument("--parts", default=",".join(PARTS), help="by comma")
    parser.add_argument("--base", default="small", help="the drafter that the tasks' began as")
    parser.add_argument("--control", type=Path, help="the folder of the drafter of all tasks")
    parser.add_argument("--most-judged", type=int, default=500, help="texts per task: agreement")
    parser.add_argument("--per-task", type=int, default=4, help="prompts per task: speed")
    parser.add_argument("--warm", type=int, default=3, help="passes before it counts: speed")
    parser.add_argument("--passes", type=int, default=9, help="interleaved: speed")
    parser.add_argument("--per-half", type=int, default=40, help="requests: shift")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--temperatures", default="0.0,0.8", help="by comma")
    parser.add_argument("--short", action="store_true", help="a little of everything")
    add_json_argument(parser)
    arguments = parser.parse_args()
    arguments.parts = arguments.parts.split(",")
    arguments.temperatures = [float(text) for text in arguments.temperatures.split(",")]
    if unknown := sorted({*arguments.parts} - {*PARTS}):
        parser.error(f"--parts: {unknown[0]!r}{did_you_mean(unknown[0], PARTS)}; {one_of(PARTS)}")
    if arguments.control and not arguments.control.is_dir() and not _is_base(arguments.control):
        parser.error(
            f"--control: no folder {str(arguments.control)!r}, nor an alignment around it that "
            "has ended without a drafter, so that the base drafter is the control"
        )
    if arguments.short:
        vars(arguments).update(_SHORT)
    return arguments


def _check_base(pool: Pool, base: str) -> None:
    names = [member.name for member in pool.config.models if member.role == "drafter"]
    if base not in names:
        said = f"{base!r}{did_you_mean(base, names)}; {one_of(names)}"
        raise SystemExit(f"--base: pool {pool.config.name!r} has no drafter {said}")


def _is_base(control: Path) -> bool:
    """Whether that drafter is missing because an alignment has ended and none was better than the
    base drafter. An interrupted one has no pool file yet."""
    out = control.parent
    has_ended = (out / "pool.yaml").is_file() and (out / "training" / POOLED).is_dir()
    return has_ended and not any(out.glob(f"{POOLED}*"))


def _control_of(control: Path | None) -> str | None:
    """What the report says of it."""
    if control is None:
        return None
    if control.is_dir():
        return f"the drafter in {control}"
    return f"the base drafter, as there is no {control}: none was better"


def main() -> None:
    """Measures, draws, prints."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pool, checked = open_pool(arguments.pool, dtype=None)
    _check_base(pool, arguments.base)
    cold = without_prefix_cache(with_slow_target(pool) if arguments.slow_target else pool)
    results: dict[str, Any] = {"control": _control_of(arguments.control)}
    if "agreement" in arguments.parts:
        results["agreement"] = agreement(pool, checked, arguments)
    if "speed" in arguments.parts:
        results["speed"] = speed(cold, checked, arguments)
    if "shift" in arguments.parts:
        results["shift"] = shift(cold, checked, arguments)
    timed = [*results.get("speed", {}).values(), *results.get("shift", {}).values()]
    results["num_differing"] = sum(part["num_differing"] for part in timed)
    content = report("tasks_report", arguments, results)
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
    (arguments.out / "report.json").write_text(text, encoding="utf-8")
    (arguments.out / "report.md").write_text(to_markdown(content), encoding="utf-8")
    draw(results, pool, arguments.control, arguments.out)
    print_report("tasks_report", arguments, results)
    sys.exit(1 if results["num_differing"] else 0)


if __name__ == "__main__":
    main()
