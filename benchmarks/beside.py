"""Beside the peers: this system, transformers and vLLM, on the same weights and prompts.

    sh benchmarks/peers/setup.sh .peers
    python -m benchmarks.beside --split dev --json result.json
    python -m benchmarks.tables result.json

Every arm is a worker process that answers one request at a time (peers/); a peer's runs in the
peer's own virtual environment. First each peer's settings are swept, briefly and one process after
the other; then its fastest and it alone are run in the same passes as ours, in rotating order. One
pass is run before and not counted; only one worker works at a time. Tokens are ids that came.
``--short``: no sweep, few prompts, at temperature 0.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.passes import Workload, measure, sweep
from benchmarks.peers.settings import OURS, Arm, Peer, own_arms, peers
from benchmarks.peers.summary import summarise
from benchmarks.peers.worker import ROOT, Worker
from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import report
from benchmarks.tables import to_markdown
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import model_members
from specrouter_dist.text.tokenizer import Tokenizer

_SWEPT_PROMPTS = 4
_SHORT = {"per_task": 1, "max_tokens": 48, "temperature": [0.0]}
"""Defaults of the short form."""


class Driver:
    """One run of the benchmark.

    Args:
        arguments: as parsed.
        prompts: token ids.
        peers: those that are compared with.
        own: our arms.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        prompts: Sequence[Sequence[int]],
        peers: Sequence[Peer],
        own: Sequence[Arm],
    ) -> None:
        self._arguments = arguments
        self._prompts = prompts
        self._peers = peers
        self._own = own
        self._versions: dict[str, dict[str, str]] = {}

    def run(self) -> dict[str, Any]:
        """All temperatures."""
        arguments = self._arguments
        temperatures = arguments.temperature
        few = self._workload(self._prompts[:_SWEPT_PROMPTS])
        finalists: dict[float, list[Arm]] = {t: list(self._own) for t in temperatures}
        swept, absent = {}, {}
        for peer in self._peers:
            found, best = sweep(peer, temperatures, few, self._start, arguments.finalists)
            swept[peer.name] = {f"T={t}": speeds for t, speeds in found.speeds.items()}
            absent.update(found.absent)
            for temperature in temperatures:
                finalists[temperature] += best[temperature]
        full = self._workload(self._prompts)
        results = {}
        for t, arms in finalists.items():
            rows, missing = measure(arms, t, full, self._start, arguments.passes)
            results[f"T={t}"] = summarise(rows)
            absent.update(missing)
        return {
            "results": results,
            "sweep": swept,
            "absent": absent,
            "worker_versions": self._versions,
        }

    def _workload(self, prompts: Sequence[Sequence[int]]) -> Workload:
        return Workload(prompts, self._arguments.max_tokens, self._arguments.ignore_eos)

    def _start(self, arm: Arm) -> Worker:
        worker = Worker(arm.name, arm.command, dict(arm.environment))
        self._versions[arm.system] = worker.versions
        return worker


def parse_arguments() -> argparse.Namespace:
    """What is said wins over the defaults of ``--short``, too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    parser.add_argument("--per-task", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind the text's end")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument(
        "--arms", nargs="+", default=[OURS, "transformers", "vllm"], help="systems to compare"
    )
    parser.add_argument("--backend", nargs="+", default=["ray", "local"], help="ours run on these")
    parser.add_argument(
        "--chain", action="append", default=[], help="a static chain of ours, members by comma"
    )
    parser.add_argument("--finalists", type=int, default=2, help="best settings kept of each peer")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", help="made by setup.sh")
    parser.add_argument("--short", action="store_true", help="under five minutes")
    parser.add_argument("--json", type=Path, help="a file for the result")
    if parser.parse_args().short:
        parser.set_defaults(**_SHORT)
    return parser.parse_args()


def main() -> None:
    """Parses the arguments, measures, prints."""
    arguments = parse_arguments()
    pool, _ = open_pool(arguments.pool, dtype=None)
    target = pool.config.target.name
    tokenizer = Tokenizer.load(pool.directories[target])
    texts = read_prompts(arguments.data, arguments.split, arguments.per_task)
    prompts = [tokenizer.encode(prompt.text).tolist() for prompt in texts]
    models = {m.name: pool.directories[m.name].resolve() for m in model_members(pool)}
    known = peers(arguments.peers.resolve(), models, target, short=arguments.short)
    if unknown := set(arguments.arms) - {OURS, *(peer.name for peer in known)}:
        raise SystemExit(f"no such systems: {sorted(unknown)}")
    chains = [tuple(chain.split(",")) for chain in arguments.chain]
    own = [
        arm
        for backend in arguments.backend
        for arm in own_arms(arguments.pool, target, backend, chains)
        if OURS in arguments.arms
    ]
    chosen = [peer for peer in known if peer.name in arguments.arms]
    if arguments.json is not None:
        # Now, not when there is something to lose.
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()
    results = Driver(arguments, prompts, chosen, own).run()
    content = report("beside", arguments, {"load_average_before": load, **results})
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(to_markdown(json.loads(text)))


if __name__ == "__main__":
    main()
