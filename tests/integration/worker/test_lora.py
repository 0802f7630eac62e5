"""A drafter with two adapters in one worker: the text, shared forwards, and what is observed."""

import itertools
import queue
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from specrouter_dist.config import EdgeKnobs, LoraMember, ModelMember, Plan, SamplingParams
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.links.control import Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE
from specrouter_dist.worker.lora import hosts_of
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.posts import Call
from specrouter_dist.worker.worker import Worker
from tests.adapters import write_adapter
from tests.integration.worker.toys import SECRET, WAIT_S
from tests.unit.engine.fast_models import load, save, small

DRAFTERS = ("draft", "first", "second")
LOCK_STEP = EdgeKnobs(window=4, burst=4, patience=4, patience_ms=5)
AHEAD = EdgeKnobs(window=12, burst=5, patience=2, patience_ms=5)
PREPARED = EdgeKnobs(window=8, burst=4, patience=4, patience_ms=5, outcomes=2)


class Adapted:
    """A worker with a target, and a smaller drafter with two adapters."""

    def __init__(self, target: Path, draft: Path, adapters: Sequence[Path]) -> None:
        self.base = load(draft, exact=False, kv_tokens=4096, max_sessions=16)
        member = ModelMember(name="draft", role="drafter", model=str(draft))
        loras = [
            LoraMember(kind="lora", name=name, of="draft", adapter=str(path))
            for name, path in zip(DRAFTERS[1:], adapters, strict=True)
        ]
        hosts = hosts_of(member, self.base, draft, loras)
        for host in hosts:
            self._watch(host)
        self.mixed: list[int] = []
        """Of each forward of several sessions: how many drafters' they were."""
        self._inboxes: dict[int, queue.SimpleQueue[Output | Failed]] = {}
        self._ids = itertools.count(1)
        self.worker = Worker(
            [*hosts, ModelHost("target", load(target), is_target=True)],
            Hub("all", 1, "here", SECRET),
            PlanTable.only(Plan(chain=("target",))),
            lambda submit: StopIds(submit.sampling.stop_token_ids),
            lambda message: self._inboxes[message.request].put(message),
        )
        self.worker.start()

    def _watch(self, host: ModelHost) -> None:
        extend = host.engine.extend

        def noted(batch: Sequence[Extension]) -> list[Picks]:
            adapters = {self.base._sessions[extension.slot].adapter for extension in batch}
            self.mixed.append(len({None if a is None else a.name for a in adapters}))
            return extend(batch)

        host.engine.extend = noted  # type: ignore[method-assign]

    def texts(self, plans: Sequence[Plan], sampling: SamplingParams) -> list[list[int]]:
        """Of a request for each plan, all at once."""
        requests = []
        for number, plan in enumerate(plans):
            request = next(self._ids)
            self._inboxes[request] = queue.SimpleQueue()
            prompt = array(TOKEN_TYPECODE, [(number + 3 * i) % 120 for i in range(20 + 9 * number)])
            own = sampling.model_copy(update={"seed": number})
            self.worker.submit(Submit(request, prompt, own, plan, array(TOKEN_TYPECODE)))
            requests.append(request)
        return [self._collect(request) for request in requests]

    def observations(self) -> Observations:
        """Since the last call."""
        taken: queue.SimpleQueue[Observations] = queue.SimpleQueue()
        self.worker.hub.post(Call(lambda: taken.put(self.worker.take_observations())))
        return taken.get(timeout=WAIT_S)

    def _collect(self, request: int) -> list[int]:
        tokens: list[int] = []
        while True:
            message = self._inboxes[request].get(timeout=WAIT_S)
            assert isinstance(message, Output), message
            tokens.extend(message.tokens)
            if message.finish_reason is not None:
                return tokens


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapted]:
    folder = tmp_path_factory.mktemp("adapted")
    target, draft = folder / "target", folder / "draft"
    save(small(num_hidden_layers=4), target)
    save(small(num_hidden_layers=4), draft)
    adapters = [
        write_adapter(folder / str(seed), draft, seed=seed, spread=0.02 * seed) for seed in (1, 2)
    ]
    made = Adapted(target, draft, adapters)
    yield made
    made.worker.stop()
    assert made.worker.error is None


def plan(knobs: EdgeKnobs, *chain: str) -> Plan:
    return Plan(chain=(*chain, "target"), edges=(knobs,) * len(chain))


@pytest.mark.parametrize("knobs", [LOCK_STEP, AHEAD, PREPARED], ids=["lock", "ahead", "prepared"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_text_is_the_targets_whoever_drafts_beside_whom(
    adapted: Adapted, knobs: EdgeKnobs, temperature: float
) -> None:
    sampling = SamplingParams(temperature=temperature, max_tokens=40)
    alone = [Plan(chain=("target",))] * 8
    plans = [plan(knobs, name) for name in DRAFTERS * 2]
    plans += [plan(knobs, "first", "draft"), plan(knobs, "draft", "second")]
    wanted = adapted.texts(alone, sampling)
    adapted.mixed.clear()
    assert adapted.texts(plans, sampling) == wanted
    assert max(adapted.mixed) == 3


def test_each_is_observed_under_its_own_name(adapted: Adapted) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=60)
    adapted.observations()
    plans = [plan(LOCK_STEP, name) for name in DRAFTERS * 2]
    adapted.texts([*plans, plan(LOCK_STEP, "draft", "second")], sampling)
    seen = adapted.observations()
    assert {key.member for key in seen.forwards} == {*DRAFTERS, "target"}
    pairs = {(key.draft, key.verifier): survival for key, survival in seen.pairs.items()}
    assert pairs.keys() == {*((name, "target") for name in DRAFTERS), ("draft", "second")}
    shares = {
        draft: sum(survival.accepted) / sum(survival.reached)
        for (draft, verifier), survival in pairs.items()
        if verifier == "target"
    }
    assert shares["draft"] > shares["first"] > shares["second"]


def test_closed_sessions_leave_the_room_to_all(adapted: Adapted) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=8)
    num_free = adapted.base._decoder.cache.allocator.num_free
    for _ in range(3):
        adapted.texts([plan(PREPARED, name) for name in DRAFTERS * 2], sampling)
    end = time.monotonic() + WAIT_S
    while adapted.base._sessions._sessions and time.monotonic() < end:
        time.sleep(0.01)
    # What is kept for later sessions gives way.
    adapted.worker.stop()
    adapted.base._sessions._prefixes.take(num_free)
