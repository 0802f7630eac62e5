"""``ray job submit`` of ``specrouter tasks align``, whose process is killed and which goes on."""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks.clusters import executable
from specrouter_dist.pools.loading import load_pool
from specrouter_dist.tasks.model import write_model
from tests.integration.deployed.shell import DASHBOARD, DONE_WITHIN_S, Shell
from tests.task_prompts import mixed, partition

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

NUM_STEPS, EVERY = 60, 10
TASK = partition().model.header.tasks[0].name
SETTINGS = {
    "shards": 2,
    "prompts_per_shard": 16,
    "max_new_tokens": 8,
    "held_out_prompts": 4,
    "patience": 100,
    "threads": 1,
    "distillation": {
        "optimizer": {"steps": NUM_STEPS, "checkpoint_every": EVERY, "tokens_per_batch": 256}
    },
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """What goes with the job."""
    folder = tmp_path / "job"
    folder.mkdir()
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in mixed(40))
    (folder / "prompts.jsonl").write_text(rows)
    (folder / "align.yaml").write_text(yaml.safe_dump(SETTINGS))
    write_model(partition().model, folder / "tasks.safetensors")
    return folder


def submit(directory: Path, out: Path) -> subprocess.Popen[str]:
    command = [executable("ray"), "job", "submit", "--address", DASHBOARD]
    command += ["--working-dir", str(directory), "--", "specrouter", "tasks", "align"]
    command += ["prompts.jsonl", "--tasks", "tasks.safetensors", "--out", str(out)]
    command += ["--config", "align.yaml", "--task", TASK]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps_of(out: Path) -> list[int]:
    """Of all steps that were made, in order; half a line is none."""
    log = out / "training" / TASK / "drafter.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [found["step"] for found in map(json.loads, lines) if "loss" in found]


def trainer_of(out: Path) -> psutil.Process:
    """Not the shell that Ray starts it from, nor the client."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(out) in command and "align" in command and "submit" not in command:
            return process
    raise AssertionError(f"no process writes {out}")


def test_a_job_that_is_killed_loses_no_more_than_a_checkpoints_interval(
    shell: Shell, directory: Path, tmp_path: Path
) -> None:
    out, end = tmp_path / "aligned", time.monotonic() + DONE_WITHIN_S
    with submit(directory, out) as job:
        while len(steps_of(out)) < 2 * EVERY + EVERY // 2:
            assert job.poll() is None and time.monotonic() < end, "it does not train"
            time.sleep(0.01)
        trainer_of(out).kill()
        job.communicate(timeout=DONE_WITHIN_S)
    assert job.returncode, "it was killed, and Ray calls it done"
    before = steps_of(out)
    assert before == [*range(1, len(before) + 1)] and len(before) < NUM_STEPS
    shards = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert len(shards) == SETTINGS["shards"]

    with submit(directory, out) as job:
        printed, _ = job.communicate(timeout=DONE_WITHIN_S)
    assert job.returncode == 0, printed
    assert TASK in printed and "pool file:" in printed
    again = steps_of(out)[len(before) :]
    assert again == [*range(again[0], NUM_STEPS + 1)]
    assert 0 <= len(before) - (again[0] - 1) <= EVERY
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == shards
    assert load_pool(str(out / "pool.yaml")).config.tasks == "tasks.safetensors"
