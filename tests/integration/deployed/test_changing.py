"""A service that is deployed: a changed configuration under load, killed jobs."""

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.clusters import executable
from benchmarks.killed_jobs import Jobs, compare, write_input
from tests.documented.examples import ROOT
from tests.integration.deployed.shell import DASHBOARD, URL, Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

UP_WITHIN_S = 150.0
NUM_ROWS = 40


@dataclass(frozen=True, slots=True)
class Service:
    config: dict[str, Any]
    file: Path

    def deploy(self, **args: object) -> None:
        """``serve deploy`` of the configuration with these arguments of the application."""
        self.config["applications"][0]["args"].update(args)
        self.file.write_text(yaml.safe_dump(self.config))
        command = [executable("serve"), "deploy", str(self.file), "--address", DASHBOARD]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def replicas(self) -> set[str]:
        """Those that answer, when no other starts or stops."""
        with urllib.request.urlopen(f"{DASHBOARD}/api/serve/applications/") as response:
            application = json.load(response)["applications"]["specrouter"]
        states = {
            replica["replica_id"]: replica["state"]
            for deployment in application["deployments"].values()
            for replica in deployment["replicas"]
        }
        is_done = application["status"] == "RUNNING" and set(states.values()) == {"RUNNING"}
        return set(states) if is_done else set()


@pytest.fixture(scope="module")
def service(shell: Shell) -> Service:
    config = yaml.safe_load((ROOT / "deployments" / "tiny.yaml").read_text())
    deployed = Service(config, shell.place / "config.yaml")
    wait_until(lambda: len(deployed.replicas()) == 2, "the service is not up")
    return deployed


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + UP_WITHIN_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.5)


@dataclass(slots=True)
class Load:
    """Requests one after the other, until it is told to end."""

    stream: bool
    texts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """To be told to end, on a thread of its own."""
        while not self.ending.is_set():
            try:
                self.texts.append(self.ask())
            except (OSError, ValueError) as problem:
                self.problems.append(repr(problem))

    def ask(self) -> str:
        """The text of one."""
        body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 64, "temperature": 0}
        content = json.dumps({**body, "ignore_eos": True, "stream": self.stream}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{URL}/v1/completions", content, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = response.read().decode()
        if not self.stream:
            return str(json.loads(answer)["choices"][0]["text"])
        *events, last = [line.removeprefix("data: ") for line in answer.split("\n\n") if line]
        assert last == "[DONE]"
        return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def test_whichever_replica_is_asked_tells_of_both(service: Service) -> None:
    load, num_requests = Load(stream=False), 12
    before = scraped()
    for _ in range(num_requests):
        load.ask()
    after = [scraped() for _ in range(10)]
    assert {frozenset(counts) for counts in after} == {frozenset(before)}
    assert len(before) == 2
    for counts in after:
        assert counts == after[0]
        assert sum(counts.values()) - sum(before.values()) == num_requests
    # Serve chooses; had one answered everything, nothing would be shown.
    assert all(after[0][replica] > before[replica] for replica in before)


def scraped() -> dict[str, float]:
    """Requests that have ended, by replica; the target tells of itself once."""
    with urllib.request.urlopen(f"{URL}/metrics", timeout=30) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    names = [sample.name for sample in samples]
    for name in ("kv_cache_usage_perc", "prefix_cache_queries_total", "prefix_cache_hits_total"):
        assert names.count(f"vllm:{name}") == 1
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == "vllm:e2e_request_latency_seconds_count":
            found[sample.labels["replica"]] = sample.value
    return found


def test_a_changed_configuration_drops_no_request(service: Service) -> None:
    before = service.replicas()
    loads = [Load(stream) for stream in (False, True, True)]
    threads = [threading.Thread(target=load.run) for load in loads]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(len(load.texts) > 2 for load in loads), "no answers")
        # What it is anyhow; the replicas do not know that and are replaced.
        service.deploy(dtype="bf16")
        wait_until(
            lambda: len(after := service.replicas()) == 2 and after.isdisjoint(before),
            "the replicas are not replaced",
        )
        num_texts = [len(load.texts) for load in loads]
        wait_until(
            lambda: all(len(load.texts) > n + 2 for load, n in zip(loads, num_texts, strict=True)),
            "no answers after the change",
        )
    finally:
        for load in loads:
            load.ending.set()
        for thread in threads:
            thread.join()
    assert [load.problems for load in loads] == [[], [], []]
    assert len({text for load in loads for text in load.texts}) == 1


def test_a_job_that_is_killed_goes_on_with_the_pool_that_runs(
    service: Service,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    write_input(directory, NUM_ROWS, max_tokens=64)
    options = ["--dtype", "bf16", "--live", "--concurrency", "2"]
    results = compare(Jobs(DASHBOARD, options, directory), NUM_ROWS, num_kills=2)
    killed_at = results.pop("killed_at_rows")
    assert results == {"rows": NUM_ROWS, "rows_missing_or_doubled": 0, "rows_differing": 0}
    assert isinstance(killed_at, list) and killed_at == sorted(killed_at)
    assert 0 < killed_at[0] < killed_at[1] < NUM_ROWS
