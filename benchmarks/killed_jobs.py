"""``ray job submit`` of a batch that is killed (``kill -9``) and submitted again, until it is done.

    python -m benchmarks.killed_jobs --rows 500
    python -m benchmarks.killed_jobs --rows 500 --address http://127.0.0.1:8265 --live

Its output must be that of a job that nobody disturbs. Without ``--address`` the jobs run on a
cluster that is started for them; with ``--live`` they use the pool that runs in the cluster,
without it each job has its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.clusters import executable, ray_head
from benchmarks.report import add_json_argument, print_report

DASHBOARD_PORT = 8365
WHEN = ("created", "chain", "metrics")
"""Keys that say when and how a text was made; all others say what it is."""
_LOOK_EVERY_S = 0.01
_DONE_WITHIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Jobs:
    """Batches as jobs.

    Attributes:
        address: of the cluster's dashboard.
        options: of ``specrouter batch``.
        directory: of the input; goes with every job.
    """

    address: str
    options: Sequence[str]
    directory: Path

    def submit(self, output: Path) -> subprocess.Popen[str]:
        """A job that reads ``in.jsonl`` of the directory; its exit code is the job's."""
        command = [executable("ray"), "job", "submit", "--address", self.address]
        command += ["--working-dir", str(self.directory), "--"]
        command += ["specrouter", "batch", "in.jsonl", str(output), *self.options]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, output: Path) -> None:
        """A job to its end.

        Raises:
            RuntimeError: it failed; with what it printed.
        """
        with self.submit(output) as job:
            printed, _ = job.communicate(timeout=_DONE_WITHIN_S)
        if job.returncode:
            raise RuntimeError(f"the job failed ({job.returncode}): {printed[-2000:]}")

    def kill(self, output: Path, *, at_rows: int) -> int:
        """A job whose driver is killed when so many rows are in the output; how many are then.

        Raises:
            RuntimeError: it ended before.
        """
        with self.submit(output) as job:
            while num_rows(output) < at_rows:
                if job.poll() is not None:
                    assert job.stdout is not None
                    raise RuntimeError(f"the job has ended: {job.stdout.read()[-2000:]}")
                time.sleep(_LOOK_EVERY_S)
            _driver_of(output).kill()
            job.communicate(timeout=_DONE_WITHIN_S)
        if not job.returncode:
            raise RuntimeError("the job was killed, and Ray calls it done")
        return num_rows(output)


def num_rows(output: Path) -> int:
    """Whole lines."""
    return output.read_bytes().count(b"\n") if output.exists() else 0


def what_is_said(output: Path) -> list[str]:
    """The output's lines without what depends on time."""

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(element) for element in value]
        if isinstance(value, dict):
            return {name: without(value[name]) for name in value if name not in WHEN}
        return value

    lines = output.read_bytes().splitlines()
    return [json.dumps(without(json.loads(line))) for line in lines]


def write_input(directory: Path, count: int, max_tokens: int) -> None:
    """Rows of several lengths, greedy and not."""
    with (directory / "in.jsonl").open("w") as file:
        for i in range(count):
            row = {
                "prompt": f"Once upon a time {i}",
                "id": i,
                "max_tokens": max_tokens // 2 + i % 5 * max_tokens // 10,
                "temperature": (0.0, 0.8)[i % 2],
                "ignore_eos": True,
            }
            file.write(json.dumps(row) + "\n")


def compare(jobs: Jobs, count: int, num_kills: int) -> dict[str, object]:
    """One job undisturbed, one killed after each part of its rows; what they wrote."""
    whole, output = (jobs.directory.parent / f"{name}.jsonl" for name in ("whole", "killed"))
    killed_at: list[int] = []
    with tqdm(total=num_kills + 2, unit="job", disable=None) as shown:
        jobs.run(whole)
        shown.update()
        for kill in range(1, num_kills + 1):
            killed_at.append(jobs.kill(output, at_rows=kill * count // (num_kills + 1)))
            shown.update()
        jobs.run(output)
        shown.update()
    said, wanted = what_is_said(output), what_is_said(whole)
    return {
        "rows": len(wanted),
        "killed_at_rows": killed_at,
        "rows_missing_or_doubled": len(said) - len(wanted),
        "rows_differing": sum(a != b for a, b in zip(said, wanted, strict=False)),
    }


def _driver_of(output: Path) -> psutil.Process:
    """The process that writes the output: not the shell that Ray starts it from."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(output) in command and "batch" in command and "submit" not in command:
            return process
    raise RuntimeError(f"no process writes {output}")


@contextmanager
def _cluster(address: str | None) -> Iterator[str]:
    if address is not None:
        yield address
        return
    options = ["--port=0", "--include-dashboard=true", f"--dashboard-port={DASHBOARD_PORT}"]
    with ray_head(*options):
        yield f"http://127.0.0.1:{DASHBOARD_PORT}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--address", help="Of a dashboard, e.g. http://127.0.0.1:8265")
    parser.add_argument("--live", action="store_true", help="On the pool that runs there.")
    add_json_argument(parser)
    arguments = parser.parse_args()
    if arguments.live and arguments.address is None:
        parser.error("--live needs --address: a cluster that is started here runs no pool")
    options = ["--pool", arguments.pool, *(["--live"] if arguments.live else [])]
    with tempfile.TemporaryDirectory() as place, _cluster(arguments.address) as address:
        directory = Path(place) / "job"
        directory.mkdir()
        write_input(directory, arguments.rows, arguments.max_tokens)
        results = compare(Jobs(address, options, directory), arguments.rows, arguments.kills)
    print_report("killed_jobs", arguments, results)
    failed = results["rows_missing_or_doubled"] or results["rows_differing"]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
