"""Beside vLLM through HTTP: tokens per second and latencies, with several requests at a time.

    sh benchmarks/peers/setup.sh .peers
    python -m benchmarks.beside_http --concurrency 1 4 8 16 32 --json

Every arm is a server of its own with the same weights, asked for the same prompts as streamed
completions. All servers stay up; only one is asked at a time, in rotating order. At each
concurrency one pass is run before and not counted. Tokens are those that the servers' own usage
counts.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.peers.servers import HttpArm, Server, own_http_arms, vllm_http_arm
from benchmarks.peers.settings import OURS, peers
from benchmarks.peers.streams import Ask, Streamed, ask_all
from benchmarks.peers.summary import percentiles
from benchmarks.peers.worker import ROOT, WorkerError
from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import model_members
from specrouter_dist.text.tokenizer import Tokenizer

_SETTLE_S = 0.3
"""Pause before a pass: threads of the server before may spin behind their last work."""
_PROMPTS_PER_SLOT = 3
_FEWEST_PROMPTS = 8


@dataclass(slots=True)
class Passes:
    """One arm at one concurrency."""

    arm: HttpArm
    speeds: list[float] = field(default_factory=list)
    """Tokens per second over all requests, by pass."""
    answers: list[Streamed] = field(default_factory=list)
    """Of all passes, in order."""
    cpu_s: float = 0.0
    """Processor time of the server's processes."""

    def run(
        self, server: Server, ask: Ask, prompts: Sequence[Sequence[int]], concurrency: int
    ) -> None:
        """One pass."""
        before_s, started_s = server.cpu_s(), time.perf_counter()
        answers = ask_all(ask, prompts, concurrency)
        passed_s = time.perf_counter() - started_s
        self.cpu_s += server.cpu_s() - before_s
        self.answers += answers
        self.speeds.append(sum(answer.num_tokens for answer in answers) / passed_s)

    def row(self, reference: "Passes") -> dict[str, Any]:
        """``reference``: whose texts are compared with."""
        timed = [a for a in self.answers if a.num_tokens > 1]
        return {
            "arm": self.arm.name,
            "tokens_per_second": asdict(median_interval(self.speeds)),
            "time_to_first_token_ms": percentiles([a.time_to_first_token_ms for a in self.answers]),
            "time_per_output_token_ms": percentiles(
                [(a.total_ms - a.time_to_first_token_ms) / (a.num_tokens - 1) for a in timed]
            ),
            "cpu_ms_per_token": 1e3 * self.cpu_s / sum(a.num_tokens for a in self.answers),
            "num_differing": sum(
                a.text != b.text for a, b in zip(self.answers, reference.answers, strict=True)
            ),
        }


def measure(
    arms: Mapping[str, tuple[HttpArm, Server]],
    prompts: Sequence[Sequence[int]],
    concurrency: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """All arms at one concurrency."""
    rows = [Passes(arm) for arm, _ in arms.values()]
    for turn in tqdm(range(-1, arguments.passes), desc=f"concurrency {concurrency}", leave=False):
        for k in range(len(rows)):
            row = rows[(turn + k) % len(rows)]
            server = arms[row.arm.name][1]
            ask = Ask(
                server.url,
                server.model,
                arguments.max_tokens,
                arguments.temperature,
                arguments.ignore_eos,
                row.arm.fields,
            )
            time.sleep(_SETTLE_S)
            counted = row if turn >= 0 else Passes(row.arm)
            counted.run(server, ask, prompts, concurrency)
    return {
        "concurrency": concurrency,
        "num_prompts": len(prompts),
        "arms": [row.row(rows[0]) for row in rows],
        "over_best_peer": _over_best_peer(rows),
    }


def _over_best_peer(rows: Sequence[Passes]) -> dict[str, Any]:
    """The router's choice over the peer's arm of the highest median, pass by pass."""
    others = [row for row in rows if row.arm.system != OURS]
    if not others:
        return {}
    best = max(others, key=lambda row: median_interval(row.speeds).median)
    pairs = zip(rows[0].speeds, best.speeds, strict=True)
    ratio = median_interval([ours / theirs for ours, theirs in pairs])
    return {"best_peer": best.arm.name, **asdict(ratio)}


def chosen_arms(arguments: argparse.Namespace) -> list[HttpArm]:
    """Ours first."""
    pool, _ = open_pool(arguments.pool, dtype=None)
    target = pool.config.target.name
    models = {m.name: pool.directories[m.name].resolve() for m in model_members(pool)}
    known = peers(arguments.peers.resolve(), models, target, short=not arguments.full)
    (vllm,) = (peer for peer in known if peer.name == "vllm")
    # A server has an engine process in any case.
    mode = vllm.modes[-1]
    found = [vllm_http_arm(vllm.arm(setting, mode), models[target]) for setting in vllm.settings]
    return [*own_http_arms(arguments.pool), *found]


def parse_arguments() -> argparse.Namespace:
    """As the user says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind the text's end")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--full", action="store_true", help="all of vLLM's settings, not three")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", help="made by setup.sh")
    add_json_argument(parser)
    return parser.parse_args()


def main() -> None:
    """Parses the arguments, measures, prints."""
    arguments = parse_arguments()
    pool, _ = open_pool(arguments.pool, dtype=None)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        servers: dict[object, Server] = {}
        arms: dict[str, tuple[HttpArm, Server]] = {}
        for arm in tqdm(chosen_arms(arguments), desc="servers", leave=False):
            try:
                if arm.server not in servers:
                    servers[arm.server] = stack.enter_context(Server(arm))
            except WorkerError as error:
                if arm.system == OURS:
                    raise
                absent[arm.name] = str(error)
                continue
            arms[arm.name] = arm, servers[arm.server]
        rows = []
        for concurrency in arguments.concurrency:
            count = max(_FEWEST_PROMPTS, _PROMPTS_PER_SLOT * concurrency)
            texts = read_prompts(arguments.data, arguments.split, -(-count // 4))[:count]
            prompts = [tokenizer.encode(prompt.text).tolist() for prompt in texts]
            rows.append(measure(arms, prompts, concurrency, arguments))
            if not arguments.json:
                print(rows[-1], flush=True)
        rss_mib = {name: server.rss_bytes() / 2**20 for name, (_, server) in arms.items()}
    print_report("beside_http", arguments, {"rows": rows, "rss_mib": rss_mib, "absent": absent})


if __name__ == "__main__":
    main()
