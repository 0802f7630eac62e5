"""``specrouter batch`` on a running pool against the same requests through its HTTP service.

    python -m benchmarks.batch_throughput --rows 128 --passes 5

Both ask the same service's pool, so many requests at a time, by turns; the texts must be the same.
A batch is a process of its own that has to find the pool first: its throughput is told with the
time for that, and without it, as of a long file. Exit code 1 if a text differs.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks.clients.service import Service, serve
from benchmarks.clusters import executable
from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from benchmarks.statistics import median_interval

_TIMEOUT_S = 600.0

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """All rows, by one way."""

    texts: list[str]
    num_tokens: int
    total_s: float
    asking_s: float
    """Of these, from the first request on."""


async def _ask(url: str, rows: Rows, concurrency: int) -> list[dict[str, Any]]:
    turns = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:

        async def answer(row: dict[str, Any]) -> dict[str, Any]:
            async with turns:
                reply = await client.post(url, json=row)
            reply.raise_for_status()
            found: dict[str, Any] = reply.json()
            return found

        return await asyncio.gather(*map(answer, rows))


def through_http(service: Service, rows: Rows, concurrency: int) -> Run:
    """Whole answers, one connection per running request."""
    started = time.perf_counter()
    answers = asyncio.run(_ask(f"{service.url}/v1/completions", rows, concurrency))
    passed_s = time.perf_counter() - started
    texts = [answer["choices"][0]["text"] for answer in answers]
    num_tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return Run(texts, num_tokens, passed_s, passed_s)


def _batch_row(number: int, body: dict[str, Any]) -> str:
    """A line of an input in OpenAI's form."""
    row = {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(row) + "\n"


def as_batch(pool: str, rows: Rows, concurrency: int, folder: Path) -> Run:
    """One process of ``specrouter batch --live``."""
    source, output, progress = (folder / name for name in ("in.jsonl", "out.jsonl", "bar.jsonl"))
    source.write_text("".join(map(_batch_row, range(len(rows)), rows)), encoding="utf-8")
    progress.unlink(missing_ok=True)
    command = [executable("specrouter"), "batch", str(source), str(output), "--pool", pool]
    command += ["--live", "--overwrite", "--concurrency", str(concurrency)]
    command += ["--progress", str(progress), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    summary = json.loads(done.stdout)
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    texts = [answer["response"]["body"]["choices"][0]["text"] for answer in answers]
    # A line every second: the last one without a token was at most so long before the first.
    told = [json.loads(line) for line in progress.read_text(encoding="utf-8").splitlines()]
    idle_s = max((line["elapsed_s"] for line in told if not line["tokens"]), default=0.0)
    total_s = summary["elapsed_s"]
    return Run(texts, summary["tokens"], total_s, total_s - idle_s)


def compare(arguments: argparse.Namespace) -> dict[str, object]:
    """By turns; a first pass is not counted."""
    prompts = read_prompts(arguments.data, arguments.split, arguments.rows)
    rows = [
        {"prompt": prompt.text, "max_tokens": arguments.max_tokens, "temperature": 0.0}
        for prompt in prompts
    ]
    pairs: list[tuple[Run, Run]] = []
    with serve(arguments.pool) as service, tempfile.TemporaryDirectory() as folder:
        for _ in tqdm(range(1 + arguments.passes), desc="passes", leave=False):
            http = through_http(service, rows, arguments.concurrency)
            batch = as_batch(arguments.pool, rows, arguments.concurrency, Path(folder))
            pairs.append((http, batch))
    counted = pairs[1:]
    speeds = {
        "http": [http.num_tokens / http.total_s for http, _ in counted],
        "batch": [batch.num_tokens / batch.total_s for _, batch in counted],
        "batch_while_asking": [batch.num_tokens / batch.asking_s for _, batch in counted],
    }
    return {
        "rows": len(rows),
        "tokens_per_second": {way: asdict(median_interval(of)) for way, of in speeds.items()},
        "over_http": {
            way: asdict(
                median_interval([a / b for a, b in zip(speeds[way], speeds["http"], strict=True)])
            )
            for way in ("batch", "batch_while_asking")
        },
        "num_differing": sum(
            a != b for one, other in pairs for a, b in zip(one.texts, other.texts, strict=True)
        ),
    }


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--split", choices=["dev", "eval"], default="dev")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=48)
    add_json_argument(parser)
    arguments = parser.parse_args()
    results = compare(arguments)
    print_report("batch_throughput", arguments, results)
    sys.exit(bool(results["num_differing"]))


if __name__ == "__main__":
    main()
