"""Which arms are compared, in which order, and what is made of their passes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.lines import Answer, Request
from benchmarks.peers.passes import Measured, Workload, best_arms, measure, sweep
from benchmarks.peers.settings import Arm, Mode, Peer, Setting, own_arms, peers
from benchmarks.peers.summary import acceptance_rate, summarise, times_per_output_token_ms
from benchmarks.peers.worker import WorkerError

WORKLOAD = Workload([[1], [2, 3]], max_tokens=4, ignore_eos=False)
PEER = Peer(
    "peer",
    ("peer",),
    (Setting("alone"), Setting("draft", ("--draft",)), Setting("lookup", ("--lookup",))),
    (Mode("threads 1", (("N", "1"),)), Mode("threads 2", (("N", "2"),))),
)


def answer(ms_per_token: float, num_tokens: int = 4, **drafts: int) -> Answer:
    return Answer(list(range(num_tokens)), ms_per_token, ms_per_token * num_tokens, **drafts)


class FakeWorkers:
    """Workers that take stated times: by arm and temperature, in ms per token."""

    def __init__(self, ms: dict[tuple[str, float], float], broken: Sequence[str] = ()) -> None:
        self.ms = ms
        self.broken = broken
        self.asked: list[tuple[str, Request]] = []
        self.running: list[str] = []
        self.most_running = 0
        self.started: dict[str, int] = defaultdict(int)

    def start(self, arm: Arm) -> Any:
        self.started[arm.name] += 1
        if arm.name in self.broken:
            raise WorkerError(f"{arm.name}: does not load")
        return FakeWorker(self, arm.name)


class FakeWorker:
    def __init__(self, workers: FakeWorkers, name: str) -> None:
        self.workers, self.name = workers, name

    def __enter__(self) -> "FakeWorker":
        self.workers.running.append(self.name)
        self.workers.most_running = max(self.workers.most_running, len(self.workers.running))
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.running.remove(self.name)

    def ask(self, request: Request) -> Answer:
        self.workers.asked.append((self.name, request))
        return answer(self.workers.ms[self.name, request.temperature])

    def cpu_s(self) -> float:
        """Half a second per request."""
        return 0.5 * sum(name == self.name for name, _ in self.workers.asked)

    def rss_bytes(self) -> int:
        return 3 * 2**20


TIMES = {
    ("peer alone (threads 1)", 0.0): 4.0,
    ("peer alone (threads 2)", 0.0): 5.0,
    ("peer draft (threads 1)", 0.0): 2.0,
    ("peer lookup (threads 1)", 0.0): 3.0,
    ("peer alone (threads 1)", 0.8): 4.0,
    ("peer alone (threads 2)", 0.8): 1.0,
    ("peer draft (threads 1)", 0.8): 6.0,
    ("peer lookup (threads 1)", 0.8): 3.0,
}


def names(arms: Sequence[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def test_the_fastest_are_the_best() -> None:
    speeds = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0}
    assert best_arms(speeds, 1) == ["b"]
    assert best_arms(speeds, 3) == ["b", "d", "c"]
    assert best_arms({}, 1) == []


def test_finalists_are_the_peer_alone_and_its_best_at_each_temperature() -> None:
    workers = FakeWorkers(TIMES)
    found, finalists = sweep(PEER, [0.0, 0.8], WORKLOAD, workers.start, 1)
    assert names(finalists[0.0]) == ["peer alone (threads 1)", "peer draft (threads 1)"]
    assert names(finalists[0.8]) == ["peer alone (threads 1)", "peer lookup (threads 1)"]
    assert found.speeds[0.0]["peer draft (threads 1)"] == 500.0
    assert not found.absent
    assert workers.most_running == 1 and not workers.running


def test_a_setting_that_does_not_load_is_absent_with_its_reason() -> None:
    workers = FakeWorkers(TIMES, broken=["peer draft (threads 1)"])
    found, finalists = sweep(PEER, [0.0], WORKLOAD, workers.start, 1)
    assert found.absent == {"peer draft (threads 1)": "peer draft (threads 1): does not load"}
    assert names(finalists[0.0]) == ["peer alone (threads 1)", "peer lookup (threads 1)"]


def test_a_peer_that_does_not_load_at_all_is_absent() -> None:
    broken = [name for name, _ in TIMES]
    workers = FakeWorkers(TIMES, broken)
    found, finalists = sweep(PEER, [0.0], WORKLOAD, workers.start, 1)
    assert finalists == {0.0: []}
    assert list(found.absent) == ["peer alone (threads 1)", "peer alone (threads 2)"]


def test_where_there_is_nothing_to_choose_nothing_is_measured() -> None:
    peer = replace(PEER, modes=PEER.modes[:1])
    workers = FakeWorkers(TIMES)
    _, finalists = sweep(peer, [0.0], WORKLOAD, workers.start, 2)
    assert len(finalists[0.0]) == 3 and not workers.started
    sweep(peer, [0.0], WORKLOAD, workers.start, 1)
    assert workers.started


def test_a_peer_that_does_not_start_is_absent_and_ours_must() -> None:
    arms = [Arm(name, name, (name,)) for name in ("ours", "peer")]
    workers = FakeWorkers({("ours", 0.0): 1.0}, broken=["peer"])
    measured, absent = measure(arms, 0.0, WORKLOAD, workers.start, 1, settle_s=0.0)
    assert names([row.arm for row in measured]) == ["ours"]
    assert absent == {"peer": "peer: does not load"}
    with pytest.raises(WorkerError, match="ours: does not load"):
        measure(arms, 0.0, WORKLOAD, FakeWorkers({}, broken=["ours"]).start, 1, settle_s=0.0)


def test_short_forms_leave_nothing_to_choose() -> None:
    models = {name: Path(name) for name in ("small", "medium", "target")}
    for peer in peers(Path("environments"), models, "target", short=True):
        assert len(peer.modes) == 1 and len(peer.settings) in (2, 3)
    for peer in peers(Path("environments"), models, "target", short=False):
        arms = [peer.arm(setting, mode) for setting in peer.settings for mode in peer.modes]
        assert len({arm.name for arm in arms}) == len({arm.worker for arm in arms}) == len(arms)


def test_passes_rotate_over_the_same_prompts_and_the_first_is_not_counted() -> None:
    arms = [Arm(name, name, (name,)) for name in "abc"]
    workers = FakeWorkers({(name, 0.8): 2.0 for name in "abc"})
    measured, absent = measure(arms, 0.8, WORKLOAD, workers.start, 3, settle_s=0.0)
    assert not absent
    order = [name for name, request in workers.asked if request.seed == 0]
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert [len(row.answers) for row in measured] == [3, 3, 3]
    assert all(row.speeds() == [500.0] * 3 for row in measured)
    assert {tuple(request.prompt_ids) for _, request in workers.asked} == {(1,), (2, 3)}
    assert measured[0].cpu_s == [1.0] * 3 and measured[0].idle_share == [0.0] * 3
    assert not workers.running


def test_own_arms_of_one_backend_share_a_worker() -> None:
    arms = own_arms("tiny", "target", "local", [("medium", "target")])
    assert names(arms) == [
        "ours auto (local)",
        "ours alone (local)",
        "ours medium -> target (local)",
    ]
    workers = FakeWorkers({(arm.name, 0.0): 1.0 for arm in arms})
    measure(arms, 0.0, WORKLOAD, workers.start, 1, settle_s=0.0)
    assert dict(workers.started) == {"ours auto (local)": 1}
    chains = [request.chain for _, request in workers.asked[-6::2]]
    assert chains == [None, ["target"], ["medium", "target"]]


def test_ratios_are_those_of_passes_and_against_the_fastest_peer() -> None:
    def row(name: str, system: str, ms: Sequence[float]) -> Measured:
        arm = Arm(name, system, (name,))
        return Measured(arm, [[answer(m)] for m in ms], [0.1] * 3, [0.0] * 3)

    rows = [
        row("ours auto (ray)", "ours", [1.0, 2.0, 3.0]),
        row("ours alone (ray)", "ours", [2.0, 4.0, 6.0]),
        row("a alone", "a", [8.0, 8.0, 8.0]),
        row("b alone", "b", [3.0, 6.0, 6.0]),
    ]
    ratios = summarise(rows)["ratios"]["ours auto (ray)"]
    assert {name: ratio["median"] for name, ratio in ratios.items()} == pytest.approx(
        {"ours alone (ray)": 2.0, "b alone": 3.0}
    )


def test_times_and_acceptance_of_answers() -> None:
    answers = [answer(2.0, num_draft_tokens=6, num_accepted_draft_tokens=3), answer(4.0, 1)]
    assert times_per_output_token_ms(answers) == [2.0]
    assert acceptance_rate(answers) == 0.5
    assert acceptance_rate([answer(1.0)]) is None
