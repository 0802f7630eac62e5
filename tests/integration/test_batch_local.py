"""``specrouter batch`` in processes that are killed: the output is that of an undisturbed run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.killed_jobs import num_rows, what_is_said
from tests.pools import write_small_pool

pytestmark = pytest.mark.timeout(600)

NUM_ROWS = 72
DONE_WITHIN_S = 240.0


def rows() -> list[str]:
    """Of both shapes, greedy and not, some wrong."""
    made: list[Any] = []
    for i in range(NUM_ROWS):
        fields = {
            "max_tokens": 24 + i % 7 * 8,
            "temperature": (0.0, 1.0)[i % 2],
            "ignore_eos": True,
        }
        messages = [{"role": "user", "content": f"Question {i}"}]
        openai = {"custom_id": f"row-{i}", "method": "POST"}
        made.append(
            (
                {"prompt": f"Once upon a time {i}", "id": i, **fields},
                {**openai, "url": "/v1/completions", "body": {"prompt": f"Open {i}", **fields}},
                {**openai, "url": "/v1/chat/completions", "body": {"messages": messages, **fields}},
                {"messages": messages, "logprobs": True, "top_logprobs": 1, **fields},
                {"prompt": "wrong", "temperature": "hot", "id": i},
                {"prompt": "x", "seed": i, "n": 1, **fields},
            )[i % 6]
        )
    return [json.dumps(row) for row in made]


def start(source: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    pool = write_small_pool(source.parent)
    command = [sys.executable, "-m", "specrouter_dist.cli", "batch", str(source), str(output)]
    command += [
        "--pool",
        str(pool),
        "--backend",
        "local",
        "--concurrency",
        "4",
        "--seed",
        "11",
        "--json",
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(source: Path, output: Path, number: signal.Signals, *, after_rows: int) -> int:
    """Its exit code, when it has been signalled with so many rows in the output."""
    with start(source, output) as process:
        end = time.monotonic() + DONE_WITHIN_S
        while num_rows(output) < after_rows and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(number)
        process.communicate(timeout=DONE_WITHIN_S)
        return process.returncode


def test_killed_and_interrupted_it_writes_what_it_would_have_written(tmp_path: Path) -> None:
    source, whole, output = (tmp_path / f"{name}.jsonl" for name in ("in", "whole", "out"))
    progress = tmp_path / "progress.jsonl"
    source.write_text("\n".join(rows()))
    with start(source, whole) as process:
        out, err = process.communicate(timeout=DONE_WITHIN_S)
    assert process.returncode == 3, err
    summary = json.loads(out)
    assert [summary[key] for key in ("rows", "done", "failed")] == [NUM_ROWS, NUM_ROWS, 12]
    assert err.splitlines()[0] == "line 5: temperature: input should be a valid number, got 'hot'"

    assert interrupt(source, output, signal.SIGKILL, after_rows=9) == -signal.SIGKILL
    first = num_rows(output)
    assert 9 <= first < NUM_ROWS
    # As a kill in the middle of a write leaves it.
    output.write_bytes(output.read_bytes()[:-20])
    so_far = first
    # By Ctrl-C, and as jobs are stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        assert interrupt(source, output, number, after_rows=so_far + 9) == 130
        assert so_far + 9 <= num_rows(output) < NUM_ROWS
        assert output.read_bytes().endswith(b"\n")
        so_far = num_rows(output)
    with start(source, output, "--progress", str(progress)) as process:
        out, err = process.communicate(timeout=DONE_WITHIN_S)
    assert process.returncode == 3, err
    assert json.loads(out)["resumed"] == so_far
    assert what_is_said(output) == what_is_said(whole)
    last = json.loads(progress.read_text().splitlines()[-1])
    assert (last["done"], last["failed"], last["eta_s"]) == (NUM_ROWS, 12, 0.0)
