"""A stage and the messages around it, written by hand."""

from array import array
from collections.abc import Sequence

from specrouter_dist.config import EdgeKnobs
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import EdgeId, Proposals, Truth
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.tokens import TokenBuffer

UP = EdgeId(1, 1, 10)
DOWN = EdgeId(1, 1, 20)
LOCK_STEP = EdgeKnobs(window=4, burst=4, patience=4)
EAGER = EdgeKnobs(window=8, burst=4, patience=0)
STOP = 99


def new_stage(prompt: Sequence[int] = (1, 2), **options: int) -> Stage:
    options = {"end": 100} | options
    return Stage(prompt, prompt_tokens=len(prompt), ending=StopIds([STOP]), **options)


def verifier(knobs: EdgeKnobs = LOCK_STEP, *, end: int = 100) -> Stage:
    """A stage with an upstream that has fed its prompt ``1 2`` and drawn 3."""
    stage = new_stage(end=end)
    stage.attach_upstream(UP, knobs)
    step(stage, 3)
    stage.flush()
    return stage


def middle() -> Stage:
    """A stage between two others, with stream ``1 2 3``, all of it settled."""
    stage = new_stage()
    stage.attach_upstream(UP, EAGER)
    stage.attach_downstream(truth(1, 0, [1, 2, 3], limit=20), end=100)
    stage.flush()
    return stage


def step(stage: Stage, *picks: int) -> list[int]:
    assert stage.next_step() is not None
    return stage.on_step_done(array("I", picks)).tolist()


def proposals(stream: Sequence[int], start: int, version: int, **fields: int) -> Proposals:
    """What an upstream of that stream would send from ``start`` on."""
    return Proposals(
        edge=UP,
        version_seen=version,
        ack=fields.get("ack", 2),
        start=start,
        prefix_hash=TokenBuffer(stream).hash_at(start),
        tokens=array("I", stream[start:]),
        more=bool(fields.get("more", True)),
    )


def truth(version: int, base: int, tokens: Sequence[int], limit: int) -> Truth:
    return Truth(DOWN, version, base, array("I", tokens), limit)


def queue_of(stage: Stage) -> list[int]:
    assert stage.up is not None
    return stage.up.queue.tokens.tolist()


def stream_of(stage: Stage) -> list[int]:
    return stage.tokens.slice(0, len(stage.tokens)).tolist()
