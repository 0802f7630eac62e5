"""What a router that is started again knows, and what it refuses to believe."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.errors import SnapshotError
from specrouter_dist.routing import snapshot
from specrouter_dist.routing.agreement import Source
from specrouter_dist.routing.observations import SHORTEST_CONTEXT, PairKey
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.snapshot import dump, restore
from specrouter_dist.routing.traffic import GREEDY, ROOTS, Traffic
from tests.unit.routing.learned import WARM, learned_router, measured, new_router

POOL, LIFE = "pool", "life"


@cache
def dumped(now_s: float = 100.0) -> bytes:
    return dump(learned_router(), pool_hash=POOL, life=LIFE, now_s=now_s)


def restored(
    data: bytes, *, pool_hash: str = POOL, life: str = LIFE, now_s: float = 100.0
) -> Router:
    router = new_router()
    restore(router, data, pool_hash=pool_hash, life=life, now_s=now_s)
    return router


def knowledge(router: Router) -> object:
    """All that can be learnt, with ages at time 0."""
    agreement = router.agreement
    scores = agreement.scores.state(0.0)
    return (agreement.state(0.0), scores, router.latency.state(), router.paces.state())


class TestRoundTrip:
    def test_everything_is_predicted_as_before(self) -> None:
        before, after = learned_router(), restored(dumped())
        assert after.latency.state() == before.latency.state()
        assert after.paces.state() == before.paces.state()
        assert [len(known.manner.chain) for known in after.paces.state()] == [0, 2]
        latency = after.latency
        assert [len(part) for part in latency.state()[:4]] == [3, 3, 1, 1]
        assert latency.context_tokens == before.latency.context_tokens > SHORTEST_CONTEXT
        assert latency.per_context_token_us("target") == pytest.approx(0.5, rel=0.3)
        for context in (None, 64, 3000):
            times = [
                of.latency.forward_us("target", 5, context_tokens=context) for of in (before, after)
            ]
            assert times[0] == times[1]
        assert after.agreement.known() == before.agreement.known()
        assert after.agreement.scores.state(0.0) == before.agreement.scores.state(0.0) != ()
        assert after.agreement.places == before.agreement.places
        hot = PairKey("small", "target", Traffic("hot"))
        assert after.agreement.expected(hot) == before.agreement.expected(hot) is not None
        for key in before.agreement.known():
            assert after.agreement.curve(key) == before.agreement.curve(key)
            for source in Source:
                ours, theirs = (r.agreement.evidence(key, source) for r in (before, after))
                assert ours == theirs
        for kind in (*ROOTS, WARM):
            assert after.candidates(kind) == before.candidates(kind) != []

    def test_learning_goes_on_from_there(self) -> None:
        before, after = learned_router(), restored(dumped())
        for router in (before, after):
            router.observe(measured(request=2), 150.0)
        assert after.candidates(GREEDY) == before.candidates(GREEDY)

    def test_the_same_kinds_get_plans_at_once_under_a_higher_number(self) -> None:
        before, after = learned_router(), restored(dumped())
        table = after.decide(100.0)
        assert table is not None
        assert after.kinds == before.kinds
        for kind in before.kinds:
            assert table.plan(kind).chain == before.table.plan(kind).chain
            assert table.plan(kind).number > before.table.plan(kind).number

    @pytest.mark.parametrize("now_s", [100.0, 130.0, -50.0])
    def test_evidence_ages_and_never_grows_younger(self, now_s: float) -> None:
        after = restored(dumped(now_s=100.0), now_s=now_s)
        grounds = after.agreement.grounds(PairKey("small", "target", GREEDY), now_s)
        assert grounds.chained is not None
        assert grounds.chained.age_s == 100.0 + max(0.0, now_s - 100.0)


class TestAnotherLife:
    def test_agreement_is_taken_back_and_times_are_not(self) -> None:
        before, after = learned_router(), restored(dumped(), life="another")
        for key in before.agreement.known():
            assert after.agreement.curve(key) == before.agreement.curve(key)
        assert after.kinds == before.kinds
        assert after.latency.state() == new_router().latency.state()
        assert after.paces.state() == ()
        assert after.number == 0
        assert after.candidates(GREEDY) == []


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A snapshot that somebody has edited."""
    content = msgpack.unpackb(dumped())
    change(content)
    data: bytes = msgpack.packb(content)
    return data


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets what is at ``path``."""

    def change(content: Any) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return change


def reversed_bounds(score: list[Any]) -> list[Any]:
    """More agreement at least than at most."""
    return [*score[:4], 0.9, 0.1, *score[6:]]


EVIDENCE, FORWARDS, HOPS, SLOWDOWNS, CONTEXT = (
    ("agreement", 0),
    ("latency", 0),
    ("latency", 3),
    ("latency", 2),
    ("latency", 4),
)
REACHED, ACCEPTED, NUM_BLOCKS, NUM_EMPTY, AGE_S = 4, 5, 6, 7, 8

BAD = {
    "an older version": (put("version", value=1), "of version 1; this is version 5"),
    "a newer version": (put("version", value=6), "of version 6; this is version 5"),
    "no version": (lambda content: content.pop("version"), "of version None"),
    "another pool": (put("pool_hash", value="other"), "of pool 'other', not of 'pool'"),
    "a missing part": (lambda content: content.pop("latency"), "latency: Field required"),
    "an unknown part": (put("more", value=1), "more: Extra inputs are not permitted"),
    "NaN": (put(*EVIDENCE, NUM_BLOCKS, value=math.nan), "agreement.0.6: .*finite number, got nan"),
    "infinity": (put("at_s", value=math.inf), "at_s: .*finite number"),
    "a negative count": (put(*EVIDENCE, NUM_BLOCKS, value=-1.0), "agreement.0.6: .*got -1.0"),
    "a negative age": (put(*EVIDENCE, AGE_S, value=-1.0), "agreement.0.8: .*got -1.0"),
    "a huge count": (put(*EVIDENCE, NUM_BLOCKS, value=1e30), "agreement.0.6: .*less than or equal"),
    "accepted, not reached": (
        put(*EVIDENCE, ACCEPTED, 0, value=1e6),
        "agreement.0: .*can have been",
    ),
    "more empty than all": (put(*EVIDENCE, NUM_EMPTY, value=1e6), "agreement.0: .*were empty than"),
    "too few positions": (put(*EVIDENCE, REACHED, value=[1.0]), "agreement.0.4: .*at least 17"),
    "an unknown source": (put(*EVIDENCE, 3, value="dreamt"), "agreement.0.3: .*'chained'"),
    "no scores": (lambda content: content.pop("scores"), "scores: Field required"),
    "a score that is NaN": (put("scores", 0, 3, value=math.nan), "scores.0.3: .*got nan"),
    "a similarity above one": (put("scores", 0, 3, value=1.5), "scores.0.3: .*got 1.5"),
    "a negative agreement": (put("scores", 0, 4, value=-0.5), "scores.0.4: .*got -0.5"),
    "bounds the wrong way round": (
        lambda content: content["scores"].__setitem__(0, reversed_bounds(content["scores"][0])),
        "scores.0: .*bounded so",
    ),
    "no positions": (put("scores", 0, 6, value=0.0), "scores.0.6: .*got 0"),
    "a score of the future": (put("scores", 0, 8, value=-1.0), "scores.0.8: .*got -1.0"),
    "texts of no kind": (put("scores", 0, 7, value="none"), "scores.0.7: .*'sampled texts'"),
    "a time of zero": (
        put(*FORWARDS, 0, 1, 0, 2, 0, 2, value=0.0),
        "latency.0.0.1.0.2.0.2: .*got 0",
    ),
    "a context of zero": (
        put(*FORWARDS, 0, 1, 0, 2, 0, 1, value=0),
        "latency.0.0.1.0.2.0.1: .*got 0",
    ),
    "a negative context": (put(*CONTEXT, 0, value=-1.0), "latency.4.0: .*got -1"),
    "a context that is NaN": (put(*CONTEXT, 0, value=math.nan), "latency.4.0: .*got nan"),
    "an absurd context": (put(*CONTEXT, 0, value=1e9), "latency.4: .*contexts lie in"),
    "a size of zero": (put(*FORWARDS, 0, 1, 0, 2, 0, 0, value=0), "latency.0.0.1.0.2.0.0: .*got 0"),
    "no times": (put(*FORWARDS, 0, 1, 0, 2, value=[]), "latency.0.0.1.0.2: .*at least 1"),
    "a ratio of zero": (
        put(*FORWARDS, 0, 1, 0, 1, value=[1.0, 1.0, 1.0, 0.0, 0.0]),
        "latency.0.0.1.0.1: .*ratios lie",
    ),
    "sums of no steps": (
        put(*FORWARDS, 0, 1, 0, 1, value=[1.0, 2.0, 1.0, 1.0, 1.0]),
        "latency.0.0.1.0.1: .*no steps of which these are sums",
    ),
    "an absurd slowdown": (put(*SLOWDOWNS, 0, 2, 0, value=1e9), "latency.2.0.2: .*ratios lie in"),
    "a negative hop": (put(*HOPS, 0, 2, 0, value=-5.0), "latency.3.0.2.0: .*got -5.0"),
    "an absurd pace": (put("paces", 0, 2, value=1e9), "paces.0.2: .*less than or equal to 10"),
    "a negative number": (put("number", value=-1), "number: .*got -1"),
    "a text for a number": (put("number", value="x"), "number: .*got x"),
}


class TestRefusals:
    @pytest.mark.parametrize("name", BAD)
    def test_what_cannot_be_is_refused_whole_and_says_where(self, name: str) -> None:
        change, message = BAD[name]
        router = new_router()
        with pytest.raises(SnapshotError, match=message):
            restore(router, changed(change), pool_hash=POOL, life=LIFE, now_s=100.0)
        assert knowledge(router) == knowledge(new_router())
        assert (router.number, router.kinds) == (0, ROOTS)

    def test_a_truncated_snapshot_is_refused(self) -> None:
        data = dumped()
        for length in (0, 1, len(data) // 2, len(data) - 1):
            with pytest.raises(SnapshotError, match="no whole msgpack"):
                restored(data[:length])

    @pytest.mark.parametrize("content", [None, 1, "text", [1], {1: 2}])
    def test_other_msgpack_is_refused(self, content: object) -> None:
        with pytest.raises(SnapshotError):
            restored(msgpack.packb(content))

    def test_too_large_a_snapshot_is_neither_written_nor_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = dumped()
        monkeypatch.setattr(snapshot, "MAX_BYTES", len(data) - 1)
        with pytest.raises(SnapshotError, match=f"{len(data)} bytes; at most {len(data) - 1}"):
            restored(data)
        with pytest.raises(SnapshotError, match="at most"):
            dump(learned_router(), pool_hash=POOL, life=LIFE, now_s=100.0)

    def test_what_would_be_refused_is_not_written(self) -> None:
        router = learned_router()
        evidence = router.agreement.evidence(PairKey("small", "target", GREEDY), Source.CHAINED)
        assert evidence is not None
        evidence.num_blocks = math.nan
        with pytest.raises(SnapshotError, match="finite"):
            dump(router, pool_hash=POOL, life=LIFE, now_s=0.0)


class TestFuzz:
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        with pytest.raises(SnapshotError):
            restored(data)

    @given(st.data())
    def test_a_snapshot_with_some_bytes_changed(self, data: st.DataObject) -> None:
        raw = bytearray(dumped())
        positions = st.integers(0, len(raw) - 1)
        for at in data.draw(st.lists(positions, min_size=1, max_size=4)):
            raw[at] = data.draw(st.integers(0, 255))
        router = new_router()
        try:
            restore(router, bytes(raw), pool_hash=POOL, life=LIFE, now_s=100.0)
        except SnapshotError:
            assert knowledge(router) == knowledge(new_router())
        else:
            # What is within the bounds can be planned with.
            router.decide(100.0)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.text(max_size=4), inner, max_size=4)
            ),
        ),
        st.sampled_from(
            ["at_s", "number", "kinds", "agreement", "scores", "latency", "paces", "life"]
        ),
    )
    def test_any_value_in_place_of_a_part(self, value: object, part: str) -> None:
        router = new_router()
        try:
            data = changed(put(part, value=value))
        except UnicodeEncodeError:
            return
        try:
            restore(router, data, pool_hash=POOL, life=LIFE, now_s=100.0)
        except SnapshotError:
            assert knowledge(router) == knowledge(new_router())
