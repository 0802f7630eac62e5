"""What ``specrouter plan`` prints, with a router in place of a pool."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
import ray

from specrouter_dist.actors import finding as actors
from specrouter_dist.cli import backends
from specrouter_dist.cli import main as cli
from specrouter_dist.cli.plan_text import plan_text
from specrouter_dist.config import Plan, SamplingParams
from specrouter_dist.routing.explanation import explain
from specrouter_dist.routing.planner import Candidate
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.serving.backend import describe_plan
from tests.unit.routing.learned import learned_router, new_router


class Looked:
    """What actors and backends say of a router, at a time of 100 s."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def plan_of(self, chain: Sequence[str], traffic: Traffic) -> Plan:
        return self._router.plan_of(chain, traffic)

    def candidates(self, traffic: Traffic) -> list[Candidate]:
        return self._router.candidates(traffic)

    def table(self) -> PlanTable:
        return self._router.table

    def explain(self) -> dict[str, Any]:
        return explain(self._router, 100.0)

    def plan(self, sampling: SamplingParams) -> dict[str, Any]:
        return describe_plan(self, sampling)

    def __enter__(self) -> "Looked":
        return self

    def __exit__(self, *exception: object) -> None: ...


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    found = Looked(learned_router())
    monkeypatch.setattr(backends, "open_backend", lambda *_: found)
    monkeypatch.setattr(actors, "find_router", lambda _: found)
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        cli.main(["plan", *arguments])
    assert isinstance(exited.value.code, int)
    captured = capsys.readouterr()
    return exited.value.code, captured.out, captured.err


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.5])
def test_json_has_the_choice_the_candidates_and_the_whole_explanation(
    capsys: pytest.CaptureFixture[str], looked: Looked, temperature: float
) -> None:
    code, out, _ = run(capsys, "--temperature", str(temperature), "--json")
    view = json.loads(out)
    traffic = Traffic.of(SamplingParams(temperature=temperature))
    assert code == 0
    assert list(view) == ["traffic", "chain", "edges", "candidates", "router"]
    assert view["router"] == looked.explain()
    assert view["traffic"] == traffic._asdict()
    assert view["chain"] == list(looked.table().plan(traffic).chain)
    assert len(view["edges"]) == len(view["chain"]) - 1
    assert [way["chain"] for way in view["candidates"]] == [
        list(way.chain) for way in looked.candidates(traffic)
    ]


def test_the_text_says_what_was_chosen_and_what_that_rests_on(
    capsys: pytest.CaptureFixture[str], looked: Looked
) -> None:
    code, out, _ = run(capsys)
    best = looked.candidates(Traffic("greedy"))[0]
    chain = " -> ".join(best.chain)
    assert code == 0
    assert out.startswith(f"chain: {chain}\nfor greedy requests, one alone; table 1\n")
    lengths = ", ".join(
        f"{length} to {burst} ahead" if window > burst else str(length)
        for length, burst, window in best.takings()
    )
    assert f"  up to  1: {chain} [{lengths}]" in out
    assert f"{best.predicted_us / 1e3:8.3f} ms per token: {chain}" in out
    assert "verified 100 blocks, 100 s ago; replayed 13 blocks, 100 s ago; " in out
    assert " at 8 positions of greedy texts, 100 s ago; bias of replays" in out
    assert "2.000 in 50 rounds: small -> target (greedy, up to 1)" in out
    assert "time per token: off by " in out
    assert f"100 s ago: up to 1: target => {chain}" in out


def test_of_a_kind_without_plans_those_of_the_wider_kind_are_shown(looked: Looked) -> None:
    text = plan_text(looked.plan(SamplingParams(temperature=1.5)))
    assert "for hot requests" in text
    assert "plans of sampled requests" in text


def test_a_router_that_knows_nothing_says_so() -> None:
    text = plan_text(Looked(new_router()).plan(SamplingParams(temperature=0.0)))
    assert text.startswith("chain: target\n")
    assert "no candidates: times are unknown" in text
    assert text.count("nothing measured yet") == 3


def test_live_looks_again_and_again_until_it_is_interrupted(
    capsys: pytest.CaptureFixture[str], looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", wait)
    code, out, err = run(capsys, "--live", "--json")
    assert (code, err, waits) == (130, "", [1.0] * 3)
    assert [json.loads(line)["router"] for line in out.splitlines()] == [looked.explain()] * 3


def test_live_draws_in_place_on_a_terminal(
    capsys: pytest.CaptureFixture[str], looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = run(capsys, "--live")
    assert code == 130
    assert out.startswith("\x1b[?1049h"), "the alternate screen"
    assert out.endswith("\x1b[?25h\x1b[?1049l"), "left again, with the cursor back"
    assert "chain: " in out


def test_live_starts_nothing_when_no_pool_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(address: str, **_: object) -> None:
        assert address == "auto", "anything else starts a cluster where there is none"
        raise ConnectionError

    monkeypatch.setattr(ray, "init", find_none)
    code, out, err = run(capsys, "--live")
    assert (code, out) == (1, "")
    assert err == (
        "error: no Ray cluster runs on this machine; start it with: specrouter serve --pool tiny\n"
    )


def test_live_is_for_pools_of_actors(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--live", "--backend", "local")
    assert (code, out) == (2, "")
    assert err == "error: --live: only a pool of Ray actors can be looked at\n"
