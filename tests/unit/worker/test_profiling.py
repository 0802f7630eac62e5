"""The start-up profile: which steps are timed, and that what there is no room for is left out."""

from collections import Counter
from collections.abc import Sequence

import pytest

from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import ForwardKey
from specrouter_dist.speculation.steps import MOST_BATCH_TOKENS
from specrouter_dist.worker import profiling
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.profiling import fastest_threads, profile, profile_all
from specrouter_dist.worker.threads import kind_of

US = 1e-6


class Clock:
    """Of a test: it stands still but for what engines add."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class TimedEngine(ToyEngine):
    """Takes 100 us a step, 5 us a row and 0.1 us a token of context; where it has hiccups,
    two in three steps of a kind at a long context take far longer."""

    def __init__(self, clock: Clock, **sizes: int) -> None:
        super().__init__(**sizes)
        self._clock = clock
        self.has_hiccups = False
        self.prefill_us = 5.0
        self.row_us = 5.0
        self.most_useful_threads = 1
        self._num_threads = 1
        self._num_long: Counter[tuple[int, int]] = Counter()
        self.most_fed = 0
        self.most_picked = 0

    def extend(self, batch: Sequence[Extension]) -> list[Picks]:
        context = sum(extension.start for extension in batch)
        rows = sum(len(extension.tokens) for extension in batch)
        self.most_fed = max(self.most_fed, rows)
        self.most_picked = max(self.most_picked, sum(extension.num_picks for extension in batch))
        elapsed_us = (100.0 + 0.1 * context) * (1 + batch[0].num_drafts)
        elapsed_us += rows * (self.row_us if context else self.prefill_us)
        kind = rows, batch[0].num_drafts
        self._num_long[kind] += context >= 2048
        if self.has_hiccups and context >= 2048 and self._num_long[kind] % 3:
            elapsed_us *= 20
        elapsed_us /= min(self._num_threads, self.most_useful_threads)
        self._clock.now_s += elapsed_us * US
        return []

    def set_threads(self, num_threads: int) -> None:
        super().set_threads(num_threads)
        self._num_threads = num_threads


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(profiling, "time", made)
    return made


def learned(engine: TimedEngine, *, drafts: bool = True) -> LatencyTable:
    table = LatencyTable(0.0)
    for key, times in profile("m", engine, drafts=drafts).forwards.items():
        assert key.is_plausible and times.is_plausible
        table.profile(key, times)
    assert engine.num_open == 0
    return table


@pytest.mark.parametrize("has_hiccups", [False, True])
def test_times_at_any_context_follow_from_two(clock: Clock, has_hiccups: bool) -> None:
    engine = TimedEngine(clock)
    engine.has_hiccups = has_hiccups
    table = learned(engine)
    for context in (64, 448, 4000):
        step_us = 100.0 + 0.1 * context
        found = table.forward_us("m", 5, context_tokens=context)
        assert found == pytest.approx(step_us + 25.0, rel=0.01)
        found = table.drafting_us("m", 4, context_tokens=context)
        assert found == pytest.approx(4 * step_us + 5.0, rel=0.01)
        found = table.forward_us("m", 1, 4, context_tokens=context)
        assert found == pytest.approx(100.0 + 4 * (0.1 * context + 5.0), rel=0.01)
        found = table.drafting_us("m", 8, 4, context_tokens=context)
        assert found == pytest.approx(8 * (100.0 + 0.4 * context) + 20.0, rel=0.01)


def contexts(engine: TimedEngine, *, drafts: bool = True) -> dict[int, set[int]]:
    """By number of sessions."""
    found: dict[int, set[int]] = {}
    for key in profile("m", engine, drafts=drafts).forwards:
        found.setdefault(key.num_sessions, set()).add(key.context_tokens)
    assert engine.num_open == 0
    return found


def test_the_long_context_is_half_of_what_the_engine_holds_at_most(clock: Clock) -> None:
    assert contexts(TimedEngine(clock)) == {1: {64, 2048}, 4: {64, 2048}, 16: {64}}
    assert contexts(TimedEngine(clock), drafts=False) == {1: {64, 2048}, 4: {64}, 16: {64}}
    assert contexts(TimedEngine(clock, context_tokens=600))[1] == {64, 300}
    assert contexts(TimedEngine(clock, context_tokens=250))[1] == {64}
    assert contexts(TimedEngine(clock, context_tokens=32))[1] == {14}


def test_it_is_shorter_where_prompts_are_slow(clock: Clock) -> None:
    engine = TimedEngine(clock)
    engine.prefill_us = 1000.0
    assert 900 < max(contexts(engine)[1]) < 1000
    engine.prefill_us = 10_000.0
    assert contexts(engine)[1] == {64}


def test_the_largest_batches_have_been_run_when_it_ends(clock: Clock) -> None:
    engine = TimedEngine(clock)
    learned(engine)
    assert engine.most_fed >= MOST_BATCH_TOKENS and engine.most_picked >= MOST_BATCH_TOKENS
    slow = TimedEngine(clock)
    slow.row_us = 100_000.0
    learned(slow)
    assert slow.most_picked < MOST_BATCH_TOKENS


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize(
    ("most", "useful", "chosen"),
    [(1, 8, 1), (2, 1, 1), (2, 2, 2), (6, 6, 6), (6, 3, 4), (16, 2, 2)],
)
def test_as_many_threads_are_used_as_make_steps_faster(
    clock: Clock, drafts: bool, most: int, useful: int, chosen: int
) -> None:
    engine = TimedEngine(clock)
    engine.most_useful_threads = useful
    assert fastest_threads(engine, most, drafts=drafts) == chosen
    assert engine.num_open == 0


def test_profile_and_forwards_run_on_them(clock: Clock) -> None:
    engine = TimedEngine(clock)
    engine.most_useful_threads = 2
    host = ModelHost("m", engine, is_target=True)
    forwards = profile_all([host], own_threads=4).forwards
    assert (host.threads.own, host.threads.first) == (2, 2)
    assert forwards[ForwardKey("m", 1, 1, context_tokens=64)].total_us == pytest.approx(55.7)
    assert not any(key.beside for key in forwards)


def test_what_a_noisy_start_has_said_of_threads_is_tried_again(clock: Clock) -> None:
    """A process that starts beside another may have found one thread fastest."""
    engine = TimedEngine(clock)
    engine.most_useful_threads = 1
    host = ModelHost("m", engine, is_target=True)
    profile_all([host], own_threads=2, all_threads=2)
    assert host.threads.first == 1
    kind = kind_of(1, 0)
    for _ in range(60):
        number = host.threads.begin(kind, is_alone=True)
        host.threads.end(100.0 / number)
    assert host.threads.begin(kind, is_alone=True) == 2


@pytest.mark.parametrize(("is_target", "alone"), [(True, 2), (False, 1)])
def test_a_target_that_shares_cpus_has_all_while_nobody_drafts_ahead(
    clock: Clock, is_target: bool, alone: int
) -> None:
    engine = TimedEngine(clock)
    engine.most_useful_threads = 2
    host = ModelHost("m", engine, is_target=is_target)
    forwards = profile_all([host], own_threads=1, all_threads=4).forwards
    assert (host.threads.own, host.threads.first) == (1, alone)
    numbers = set()
    for _ in range(60):
        numbers.add(host.threads.begin(kind_of(1, 0), is_alone=True))
        host.threads.end(100.0)
    assert numbers == ({1, 2, 4} if is_target else {1})
    key = ForwardKey("m", 1, 1, context_tokens=64)
    assert forwards[key].total_us == pytest.approx(111.4 / alone)
    table = LatencyTable(hop_us=100.0)
    for key, times in forwards.items():
        table.profile(key, times)
    # What its verify takes beside a drafter is known before one has drafted beside it.
    assert table.slowdown("d", "m") == pytest.approx(alone)


def test_without_room_for_both_contexts_there_is_one(clock: Clock) -> None:
    assert contexts(TimedEngine(clock, max_sessions=1)) == {1: {64}}
    assert contexts(TimedEngine(clock, max_sessions=4)) == {1: {64, 2048}, 4: {64}}
    assert contexts(TimedEngine(clock, kv_tokens=1000)) == {1: {64}, 4: {64}}
    assert contexts(TimedEngine(clock, kv_tokens=50)) == {}
