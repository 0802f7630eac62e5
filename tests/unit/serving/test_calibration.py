"""Which chains a pool that has just started is asked for."""

from collections import Counter
from collections.abc import Iterator

import pytest

from specrouter_dist.cli.session import open_pool
from specrouter_dist.errors import NoRoomError
from specrouter_dist.serving import calibration
from specrouter_dist.serving.calibration import pair_chains
from specrouter_dist.serving.results import GenerateRequest

TASKS = ("translate-russian", "answer-question", "def-self", "python-mod", "none-init")


def test_every_pair_of_members_of_different_sizes_is_tried() -> None:
    assert list(pair_chains(*open_pool("tiny", dtype=None))) == [
        ("target",),
        ("lookup", "small", "target"),
        ("lookup", "medium", "target"),
        ("lookup", "target"),
        ("small", "medium", "target"),
        ("small", "target"),
        ("medium", "target"),
    ]


def test_drafters_of_one_size_do_not_draft_for_each_other() -> None:
    chains = set(pair_chains(*open_pool("tiny-tasks", dtype=None)))
    drafters = ["small", *(f"small-{task}" for task in TASKS)]
    assert {(drafter, "target") for drafter in [*drafters, "lookup", "medium"]} <= chains
    assert {("lookup", drafter, "target") for drafter in drafters} <= chains
    assert not [chain for chain in chains if {*chain[:2]} <= {*drafters}]


@pytest.mark.parametrize("pool", ["tiny", "tiny-tasks"])
def test_every_chain_ends_with_the_target_and_is_asked_for_once(pool: str) -> None:
    chains = list(pair_chains(*open_pool(pool, dtype=None)))
    assert len(chains) == len({*chains})
    assert all(chain[-1] == "target" for chain in chains)


class Slow:
    """A backend that takes so many seconds for every request."""

    def __init__(self, request_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[GenerateRequest] = []
        self._now_s = 0.0
        self._request_s = request_s
        monkeypatch.setattr(calibration.time, "monotonic", lambda: self._now_s)

    def generate(
        self, requests: list[GenerateRequest], *, concurrency: int
    ) -> Iterator[GenerateRequest]:
        for request in requests:
            self._now_s += self._request_s
            self.asked.append(request)
            yield request


@pytest.mark.parametrize(("request_s", "num_prompts"), [(0.01, 8), (1.0, 5), (100.0, 1)])
def test_all_chains_answer_the_same_prompts_as_many_as_there_is_time_for(
    request_s: float, num_prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_pool("tiny", dtype=None)
    slow = Slow(request_s, monkeypatch)
    assert calibration.calibrate_beside(*opened, slow)
    asked = Counter(request.chain for request in slow.asked)
    assert asked == dict.fromkeys(pair_chains(*opened), 2 * num_prompts)
    assert len({bytes(request.prompt_ids) for request in slow.asked}) == num_prompts


class Full:
    """A backend whose pool has no room: others have taken it."""

    def generate(self, requests: list[GenerateRequest], *, concurrency: int) -> None:
        raise NoRoomError("full")


def test_a_pool_that_serves_goes_on_without_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    opened = open_pool("tiny", dtype=None)
    with pytest.raises(NoRoomError):
        calibration.calibrate(*opened, Full())
    assert not calibration.calibrate_beside(*opened, Full())
    assert "calibration has ended early, requests go on: full" in caplog.text
