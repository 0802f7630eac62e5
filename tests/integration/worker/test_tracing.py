"""Traces of workers: everything is named, frames are flows, tokens stay, nothing is left behind."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import UnavailableError
from specrouter_dist.tracing.records import Kind, WorkerTrace
from specrouter_dist.tracing.shares import hops_of, shares_of
from specrouter_dist.tracing.timeline import timeline_of
from specrouter_dist.worker.tracing import Tracing, _timed_methods
from tests.integration.worker.toys import Toys, plan

PROMPT = [1, 2, 3, 4, 5]
CHAIN = ("small", "medium", "target")
PARAMS = SamplingParams(temperature=0.8, max_tokens=200, seed=7)


@pytest.fixture
def toys() -> Iterator[Toys]:
    toys = Toys(["small"], ["medium"], ["target"])
    yield toys
    toys.stop()


def generate(toys: Toys) -> list[int]:
    tokens, _ = toys.collect(toys.submit(PROMPT, plan(*CHAIN), PARAMS))
    return tokens


def traced(toys: Toys) -> tuple[list[int], list[WorkerTrace]]:
    """The tokens of a request, and each worker's trace of it."""
    tracings = [Tracing(toys.workers[name]) for name in CHAIN]
    for tracing in tracings:
        tracing.start()
    tokens = generate(toys)
    return tokens, [tracing.take() for tracing in tracings]


def test_a_chain_of_three_is_traced_whole(toys: Toys) -> None:
    wanted = generate(toys)
    tokens, traces = traced(toys)
    assert tokens == wanted
    timeline = timeline_of(traces)
    for track, name in zip(timeline.tracks, CHAIN, strict=True):
        assert (track.worker, track.is_whole) == (name, True)
        kinds = {span.name.kind for span in track.spans}
        assert kinds == {Kind.FORWARD, Kind.PYTHON, Kind.SERIALISATION, Kind.WAITING}
        assert {s.name.member for s in track.spans if s.name.kind is Kind.FORWARD} == {name}
    for shares in shares_of(timeline):
        assert shares.unnamed_ns < 0.05 * shares.wall_ns
        assert all(ns >= 0 for ns in shares.kinds_ns.values())


def test_frames_flow_along_the_chain_and_back(toys: Toys) -> None:
    _, traces = traced(toys)
    timeline = timeline_of(traces)
    ways = Counter((flow.sender, flow.receiver, flow.kind) for flow in timeline.flows)
    down = [("small", "medium"), ("medium", "target")]
    assert set(ways) == {
        *((sender, receiver, "proposals") for sender, receiver in down),
        *((receiver, sender, kind) for sender, receiver in down for kind in ("attach", "truth")),
    }
    assert all(ways[receiver, sender, "attach"] == 1 for sender, receiver in down)
    # Lock-step: every block is answered.
    assert all(ways[sender, receiver, "proposals"] > 10 for sender, receiver in down)
    assert all(flow.sent_ns < flow.received_ns for flow in timeline.flows)
    assert {(hop.sender, hop.receiver) for hop in hops_of(timeline)} <= {
        way for pair in down for way in (pair, pair[::-1])
    }
    sent = sum(frame.is_sent for trace in traces for frame in trace.frames)
    # A frame that is still under way at the end may be missing, and frames may be joined.
    assert sent - len(timeline.flows) <= 2


def test_flows_begin_and_end_inside_spans(toys: Toys) -> None:
    _, traces = traced(toys)
    timeline = timeline_of(traces)
    spans = {track.worker: track.spans for track in timeline.tracks}
    for flow in timeline.flows:
        for worker, at_ns, label in (
            (flow.sender, flow.sent_ns, "send"),
            (flow.receiver, flow.received_ns, "read"),
        ):
            around = (s for s in spans[worker] if s.began_ns <= at_ns <= s.ended_ns)
            assert label in {span.name.label for span in around}


def test_nothing_is_left_on_a_worker(toys: Toys) -> None:
    worker = toys.workers["medium"]
    before = [(owner, dict(vars(owner))) for owner, _, _ in _timed_methods(worker)]
    engine = toys.engines["medium"]
    engine.extend = engine.extend  # type: ignore[method-assign]
    own = engine.extend
    traced(toys)
    for owner, attributes in before:
        assert vars(owner).keys() - attributes.keys() <= {"extend"}
    assert vars(engine)["extend"] is own, "what was shadowed before is so again"


def test_a_full_record_ends_and_the_worker_goes_on(toys: Toys) -> None:
    worker = toys.workers["target"]
    attributes = set(vars(worker))
    tracing = Tracing(worker, max_spans=50)
    tracing.start()
    tokens = generate(toys)
    assert set(vars(worker)) == attributes
    trace = tracing.take()
    assert not trace.is_whole
    # Those that were open then still end in it.
    assert 50 <= len(list(trace.iter_spans())) < 60
    assert generate(toys) == tokens


def test_a_second_start_begins_anew_and_a_take_without_start_is_empty(toys: Toys) -> None:
    tracing = Tracing(toys.workers["target"])
    tracing.start()
    generate(toys)
    again_ns = time.perf_counter_ns()
    tracing.start()
    assert all(span.began_ns > again_ns for span in tracing.take().iter_spans())
    nothing = tracing.take()
    assert (len(nothing.spans), nothing.frames, nothing.is_whole) == (0, (), False)
    assert generate(toys) == generate(toys)


def test_a_worker_that_has_failed_is_not_waited_for(toys: Toys) -> None:
    worker = toys.workers["medium"]
    tracing = Tracing(worker)
    tracing.start()
    worker.error = OSError("broken")
    with pytest.raises(UnavailableError, match="worker medium has failed: OSError"):
        tracing.take()
    worker.error = None


def test_members_of_one_worker_have_spans_of_their_own_and_no_flows() -> None:
    toys = Toys(["target", "small", "medium"])
    try:
        tracing = Tracing(toys.workers["target"])
        tracing.start()
        generate(toys)
        timeline = timeline_of([tracing.take()])
    finally:
        toys.stop()
    (shares,) = shares_of(timeline)
    assert set(shares.members_ns) == set(CHAIN)
    assert all(kinds[Kind.FORWARD] > 0 for kinds in shares.members_ns.values())
    assert timeline.flows == ()
    assert shares.unnamed_ns < 0.05 * shares.wall_ns
