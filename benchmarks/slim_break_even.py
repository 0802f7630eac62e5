"""From which agreement on a slim level pays: by theory, and measured on real workers.

    python -m benchmarks.slim_break_even --json                  # the embedded pool's shapes, 5 min
    python -m benchmarks.slim_break_even --device cuda --json    # Llama-68M before 7B, one GPU

Papers find that a slim level on the target's device pays only if it agrees very often. A synthetic
pool of a drafter, a target and slim members, which leave out the same parts and agree with the
target as often as ``--agreements`` says: real forwards on real workers, and picks that agree as
stated. For each agreement the best chain through its slim member runs interleaved with the best one
without, one request at a time and without a prefix cache, in rotating order. A pair is one prompt
through both; a gain is the time per token without the slim level over that with it.

The agreement where the gain is 1 is told three times: ``closed_form``, the recursion of the theory
over the measured times of steps of one row; ``predicted``, by the planner, which knows the times of
all steps and the stated agreements; ``measured``. The last two are interpolated.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.asynchronous import devices_of
from benchmarks.pools import without_prefix_cache
from benchmarks.regret import describe
from benchmarks.report import add_json_argument, print_report
from benchmarks.stage_times import measure
from benchmarks.statistics import median_interval
from benchmarks.synthetic import Arm, make_prompts, run, token_us
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.llama_sizes import read_sizes
from specrouter_dist.pools.loading import POOLS_DIRECTORY, slim_members
from specrouter_dist.pools.shapes import SHAPES_DIRECTORY
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.planner import Candidate, Planner, to_plan
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.serving.results import GenerateResult
from specrouter_dist.slim.masks import MaskSpace
from specrouter_dist.speculation.agreeing import JointLaw

_DRAFTER, _TARGET = "drafter", "target"
SHAPES = {
    "cpu": (str(POOLS_DIRECTORY / "tiny" / "small"), str(POOLS_DIRECTORY / "tiny" / "target")),
    "cuda": ("llama-68m", "llama-2-7b"),
}
"""Of the drafter and the target."""
_LONGEST_BLOCK = 32
_BISECTIONS = 20


@dataclass(frozen=True, slots=True)
class Setting:
    """What is swept, and what is not."""

    device: str
    drafter: str
    target: str
    drafter_agreement: float
    agreements: Sequence[float]

    def write_pool(self, file: Path, skip: float) -> str:
        """The file of the pool whose slim members leave out this share of the layers."""
        sizes = read_sizes(SHAPES_DIRECTORY / self.target)
        space = MaskSpace(sizes.num_layers)
        mask = space.parts[: space.num_parts(skip)]
        of_all: dict[str, object] = {"kind": "model", "engine": "synthetic", "device": self.device}
        if self.device == "cuda":
            of_all["num_gpus"] = 0.5
        rounded = {"quantization": "int8"} if self.device == "cpu" else {}
        stated = {_DRAFTER: self.drafter_agreement}
        stated |= {f"slim-{agreement:g}": agreement for agreement in self.agreements}
        members = [
            {"name": _DRAFTER, "role": "drafter", "model": self.drafter, **of_all, **rounded},
            *(
                {"name": name, "kind": "layer_skip", "of": _TARGET, "mask": list(mask)}
                for name in list(stated)[1:]
            ),
            {"name": _TARGET, "role": "target", "model": self.target, "kv_tokens": 8192, **of_all},
        ]
        pairs = [
            {"draft": name, "verifier": _TARGET, "agreement": agreement}
            for name, agreement in stated.items()
        ]
        content = {"name": "break-even", "synthetic": {"agreements": pairs}, "members": members}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(file)


def best_of(planner: Planner, chains: Sequence[tuple[str, ...]]) -> Candidate:
    """The fastest of the chains, each with its best blocks."""
    ways = (planner.evaluate(chain, Regime(GREEDY)) for chain in chains)
    return min((way for way in ways if way is not None), key=lambda way: way.predicted_us)


def closed_form(drafter_us: float, slim_us: float, target_us: float, agreement: float) -> float:
    """The agreement from which on a slim level pays, with the target and the drafter, by the
    recursion ``tau_i = (g tau_{i-1} + v_i) / E(a_i, g)`` for stages that take turns.

    Args:
        drafter_us: time of a step; the same whatever the number of rows, as for the others.
        agreement: of the drafter with the target.
    """
    without_us = min(target_us, _tau_us(drafter_us, target_us, agreement))

    def through_us(slim_agreement: float) -> float:
        pairs = {(0, 2): agreement, (1, 2): slim_agreement}
        with_slim = JointLaw((_DRAFTER, "slim", _TARGET), pairs).agreement(0, 1)
        upstream_us = min(slim_us, _tau_us(drafter_us, slim_us, with_slim))
        return _tau_us(upstream_us, target_us, slim_agreement)

    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if through_us(middle) < without_us else (middle, high)
    return high


def _tau_us(upstream_us: float, verify_us: float, agreement: float) -> float:
    """Time per token of a stage with the best blocks of its upstream."""
    lengths = range(1, _LONGEST_BLOCK + 1)
    return min(
        (g * upstream_us + verify_us) / sum(agreement**k for k in range(g + 1)) for g in lengths
    )


def crossing(agreements: Sequence[float], gains: Sequence[float]) -> float | None:
    """The agreement behind the last gain below 1, linear between two; None: the highest one does
    not pay. Where all pay it is the lowest."""
    points = list(zip(agreements, gains, strict=True))
    below = [i for i, (_, gain) in enumerate(points) if gain < 1]
    if not below:
        return points[0][0]
    if below[-1] == len(points) - 1:
        return None
    (low, low_gain), (high, high_gain) = points[below[-1] : below[-1] + 2]
    return low + (high - low) * (1 - low_gain) / (high_gain - low_gain)


def compare(
    planner: Planner, ways: Sequence[Candidate], results: Sequence[Sequence[GenerateResult]]
) -> Iterator[dict[str, object]]:
    """A row for each way; the second is the one without a slim member, the first the target."""
    for way, of_way in zip(ways, results, strict=True):
        prediction = planner.predict(to_plan(way, 0), Regime(GREEDY))
        assert prediction is not None, "all members have been timed"
        pairs = list(zip(map(token_us, results[1]), map(token_us, of_way), strict=True))
        num_rounds = sum(result.metrics.num_rounds for result in of_way)
        num_tokens = sum(len(result.token_ids) for result in of_way)
        yield {
            "arm": describe(to_plan(way, 0)),
            "predicted_us": way.predicted_us,
            "measured_us": statistics.median(us for _, us in pairs),
            "predicted_tokens_per_round": prediction.round_us / prediction.predicted_us,
            "tokens_per_round": num_tokens / num_rounds,
            "predicted_gain": ways[1].predicted_us / way.predicted_us,
            "gain": asdict(median_interval([without / us for without, us in pairs])),
            "num_differing": sum(
                a.token_ids != b.token_ids for a, b in zip(of_way, results[0], strict=True)
            ),
        }


def sweep(arguments: argparse.Namespace, setting: Setting, skip: float) -> dict[str, object]:
    """All agreements at one share of skipped layers."""
    with tempfile.TemporaryDirectory() as folder:
        file = setting.write_pool(Path(folder) / "pool.yaml", skip)
        pool, report = open_pool(file, dtype=None)
        pool = without_prefix_cache(pool)
        context_tokens = arguments.prompt_tokens + arguments.max_tokens // 2
        times = measure(pool, report, context_tokens=context_tokens, repeats=arguments.repeats)
        planner = times.planner(pool, devices_of(pool, arguments.backend))
        slims = [member.name for member in slim_members(pool)]
        without: list[tuple[str, ...]] = [(_TARGET,), (_DRAFTER, _TARGET)]
        ways = [best_of(planner, without[:1]), best_of(planner, without)]
        ways += [best_of(planner, [(s, _TARGET), (_DRAFTER, s, _TARGET)]) for s in slims]
        prompts = make_prompts(arguments.pairs + 1, arguments.prompt_tokens, report.num_ids)
        backend = open_backend(pool, report, BackendName(arguments.backend))
        arms = [Arm(to_plan(way, 0)) for way in ways]
        results = run(backend, arms, prompts, 1, arguments.max_tokens)
    rows: list[dict[str, Any]] = list(compare(planner, ways, results))
    drafter_us, slim_us, target_us = (
        times.steps_us[name, 1, 0] for name in (_DRAFTER, slims[0], _TARGET)
    )
    predicted = [row["predicted_gain"] for row in rows[2:]]
    gains = [row["gain"]["median"] for row in rows[2:]]
    return {
        "skip": skip,
        "cost_of_drafter": drafter_us / target_us,
        "cost_of_slim": slim_us / target_us,
        "break_even": {
            "closed_form": closed_form(drafter_us, slim_us, target_us, setting.drafter_agreement),
            "predicted": crossing(setting.agreements, predicted),
            "measured": crossing(setting.agreements, gains),
        },
        "rows": rows,
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=list(SHAPES), default="cpu")
    parser.add_argument("--drafter", help="a shape; by default that of the device")
    parser.add_argument("--target", help="likewise")
    parser.add_argument("--backend", choices=[b.value for b in BackendName], default="local")
    parser.add_argument("--skips", type=float, nargs="+", default=(0.45, 0.6, 0.75))
    parser.add_argument(
        "--agreements", type=float, nargs="+", default=(0.7, 0.8, 0.9, 0.95, 0.98), help="at most 5"
    )
    parser.add_argument("--drafter-agreement", type=float, default=0.6)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="of each step that is timed")
    add_json_argument(parser)
    arguments = parser.parse_args()
    agreements = sorted(arguments.agreements)
    drafter, target = SHAPES[arguments.device]
    shapes = arguments.drafter or drafter, arguments.target or target
    setting = Setting(arguments.device, *shapes, arguments.drafter_agreement, agreements)
    skips = [sweep(arguments, setting, skip) for skip in arguments.skips]
    print_report("slim_break_even", arguments, {"skips": skips})


if __name__ == "__main__":
    main()
