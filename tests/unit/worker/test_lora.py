"""A drafter and its adapters as members of a worker, turned by hand."""

from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest

from specrouter_dist.config import LoraMember, ModelMember, SamplingParams
from specrouter_dist.errors import NoRoomError
from specrouter_dist.routing.observations import Observations
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, EdgeId, Truth
from specrouter_dist.speculation.steps import Step
from specrouter_dist.worker.lora import hosts_of
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.session import Session
from tests.adapters import write_adapter
from tests.unit.engine.fast_models import load, save, small

PROMPT = array(TOKEN_TYPECODE, range(1, 9))
SAMPLING = SamplingParams(temperature=0.0, max_tokens=40)
END = len(PROMPT) + SAMPLING.max_tokens


@pytest.fixture
def hosts(tmp_path: Path) -> list[ModelHost]:
    """A drafter with room for three sessions, two adapters on it, and one on another drafter."""
    base = tmp_path / "base"
    save(small(), base)
    loras = [
        LoraMember(kind="lora", name=name, of=of, adapter=str(write_adapter(tmp_path / name, base)))
        for name, of in (("one", "base"), ("two", "base"), ("three", "other"))
    ]
    member = ModelMember(name="base", role="drafter", model=str(base))
    engine = load(base, exact=False, max_sessions=3)
    return hosts_of(member, engine, base, loras)


def opened(host: ModelHost, request: int) -> Session:
    """A session that may draft for somebody elsewhere."""
    stage, slot = host.open(Opening(PROMPT, len(PROMPT), END, SAMPLING), StopIds(()))
    session = Session(request, host, stage, slot, SAMPLING, len(PROMPT), END, traffic=GREEDY)
    stage.attach_downstream(Truth(EdgeId(request, 1, 9), 1, 0, PROMPT, len(PROMPT) + 4), END)
    host.ready[session] = None
    return session


def names(batch: Sequence[tuple[Session, Step]]) -> list[str]:
    return [session.member.name for session, _ in batch]


def test_the_base_runs_everybodys_steps_side_by_side(hosts: list[ModelHost]) -> None:
    base, one, two = hosts
    assert [host.name for host in hosts] == ["base", "one", "two"]
    sessions = [opened(host, i) for i, host in enumerate((two, base, one))]
    batch = base.take_steps(0.0, Observations())
    assert names(batch) == ["base", "one", "two"]
    grown = base.forward(batch, Observations())
    assert {session for session, _, _ in grown} == set(sessions)
    assert all(len(session.stage.tokens) > len(PROMPT) for session in sessions)


def test_a_forwards_time_is_observed_once_of_each_in_turn(hosts: list[ModelHost]) -> None:
    base, one, two = hosts
    for i, host in enumerate((base, one, two)):
        opened(host, i)
    batch = base.take_steps(0.0, Observations())
    keys = [base.turn_key(batch) for _ in range(6)]
    assert all(key is not None and key.num_sessions == 3 for key in keys)
    assert [key.member for key in keys if key] == ["one", "two", "base"] * 2


@pytest.mark.parametrize("newcomer", [0, 1, 2])
def test_guesses_of_all_give_way_to_a_session_of_any(hosts: list[ModelHost], newcomer: int) -> None:
    base, one, _ = hosts
    session = opened(one, 0)
    session.num_outcomes = 2
    session.model_stage.block_tokens = 4
    base.forward(base.take_steps(0.0, Observations()), Observations())
    assert not base.take_steps(0.0, Observations())
    while one.prepare():
        pass
    # Two forks and the session take all three slots.
    with pytest.raises(NoRoomError):
        one.engine.open(SAMPLING, 8, END)
    opened(hosts[newcomer], 1)
