"""aiperf against the service: its table of speculative decoding, filled from what we answer.

    sh benchmarks/clients/setup.sh .clients
    python -m benchmarks.clients.acceptance --requests 64 --json

aiperf runs unmodified in its own environment, over the prompts of the pool's calibration. It reads
``metrics.speculative_decoding`` in the last event of every stream.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clients.service import run_client, serve
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import POOLS_DIRECTORY, Pool

_PROMPTS = POOLS_DIRECTORY / "prompts" / "calibration.jsonl"


def profile(pool: Pool, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """What aiperf exports of its run; it prints its tables to standard error."""
    prompts = out / "prompts.jsonl"
    lines = _PROMPTS.read_text(encoding="utf-8").splitlines()
    texts = [json.dumps({"text": json.loads(line)["prompt"]}) for line in lines]
    prompts.write_text("\n".join(texts) + "\n", encoding="utf-8")
    with serve(arguments.pool) as service:
        run_client(
            [
                *(str(arguments.clients / "aiperf/bin/aiperf"), "profile"),
                *("--model", pool.config.name, "--url", service.url),
                *("--endpoint-type", "completions", "--streaming"),
                *("--tokenizer", str(pool.directories[pool.config.target.name])),
                *("--input-file", str(prompts), "--custom-dataset-type", "single_turn"),
                *("--request-count", str(arguments.requests)),
                *("--concurrency", str(arguments.concurrency)),
                *("--extra-inputs", f"max_tokens:{arguments.max_tokens}"),
                *("--extra-inputs", "temperature:0", "--extra-inputs", "ignore_eos:true"),
                *("--use-server-token-count", "--artifact-dir", str(out)),
                *("--ui-type", "simple"),
            ],
        )
    (file,) = out.glob("**/profile_export_aiperf.json")
    exported: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return exported


def main() -> None:
    """Parses the arguments, runs, prints; exit code 1: the table is empty, or there were errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--clients", type=Path, default=Path(".clients"), help="environments")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    add_json_argument(parser)
    arguments = parser.parse_args()
    arguments.clients = arguments.clients.absolute()
    pool, _ = open_pool(arguments.pool, dtype=None)
    with tempfile.TemporaryDirectory() as directory:
        exported = profile(pool, arguments, Path(directory))
    table = {name: value for name, value in exported.items() if "spec_decode" in name}
    results = {"speculative": table, "errors": exported.get("error_summary"), "all": exported}
    print_report("clients.acceptance", arguments, results)
    if not table or results["errors"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
