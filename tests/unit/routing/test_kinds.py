"""Clients name tasks as they like: what is kept of them stays bounded, and what goes is missed by
nobody but them."""

from collections import Counter
from dataclasses import replace

import pytest

from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.kinds import MOST_KINDS, Kinds
from specrouter_dist.routing.observations import Observations, Pace, PaceKey, PairKey
from specrouter_dist.routing.plans import LOADS
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.snapshot import dump, restore
from specrouter_dist.routing.traffic import GREEDY, ROOTS, SAMPLED, Traffic
from tests.unit.routing.learned import blocks, law_readings, new_router, profile, readings

CHAIN = ("small", "target")


def task(number: int, regime: str = "warm") -> Traffic:
    return Traffic(regime, f"task {number}")


def pair(traffic: Traffic) -> PairKey:
    return PairKey(*CHAIN, traffic)


def serve(router: Router, number: int, alpha: float = 0.8) -> None:
    """One request of a task: plans are asked for, and everything is measured."""
    kind, now_s = task(number), 20.0 * number
    router.candidates(task(number, "hot"))
    plan = router.plan_of(CHAIN, kind)
    found = Observations(
        pairs={pair(kind): blocks(alpha)}, paces={PaceKey(plan, kind, 1): Pace(10, 20, 1e5)}
    )
    found.readings += [replace(reading, traffic=kind) for reading in readings(number)]
    found.laws += [replace(reading, traffic=kind) for reading in law_readings(number)]
    router.observe(found, now_s)


def read_late(router: Router, number: int, now_s: float) -> None:
    """Members may read a text long after the request."""
    kind = task(number)
    found = Observations(readings=[replace(each, traffic=kind) for each in readings(-number)[1:]])
    found.laws += [replace(each, traffic=kind) for each in law_readings(-number)]
    router.observe(found, now_s)


def num_kept(router: Router) -> Counter[str]:
    """Entries of everything that is kept by kind."""
    agreement, chooser = router.agreement, router._chooser
    return Counter(
        evidence=len(agreement.known()),
        scores=len(agreement.scores.state(0.0)),
        curves=sum(map(len, agreement._curves.values())),
        tokens=sum(map(len, agreement._tokens.values())),
        kinds=len(router.kinds),
        weighed=len(router._weighed),
        plans=len(router.table.ladders),
        challengers=len(chooser._challengers),
        waiting=len(chooser.waiting),
        paces=len(router.paces.state()),
        prepared=len(router.prepared),
    )


class TestBounded:
    def test_thousands_of_tasks_leave_no_more_than_a_few(self) -> None:
        router = new_router()
        router.observe(profile(), 0.0)
        most = [Counter[str](), Counter[str]()]
        for number in range(4 * MOST_KINDS):
            serve(router, number)
            read_late(router, number - MOST_KINDS, 20.0 * number)
            router.decide(20.0 * number)
            most[number >= 2 * MOST_KINDS] |= num_kept(router)
        few, many = most
        assert many <= few
        assert min(few[name] for name in ("evidence", "scores")) > MOST_KINDS
        assert few["kinds"] == few["plans"] == MOST_KINDS
        assert few["weighed"] <= MOST_KINDS * len(LOADS)
        for number in range(10_000, 12_000):
            router.observe(Observations(pairs={pair(task(number)): blocks(0.8)}), 20.0 * number)
        assert num_kept(router) <= few
        for number in range(10_000, 10_100):
            read_late(router, number, 20.0 * 12_000)
        assert num_kept(router) <= few

    def test_kinds_that_are_only_asked_for_leave_nothing(self) -> None:
        router = new_router()
        router.observe(profile(), 0.0)
        router.observe(Observations(pairs={pair(GREEDY): blocks(0.8)}), 0.0)
        router.candidates(task(0, "greedy"))
        before = num_kept(router)
        for number in range(1, 100):
            router.candidates(task(number, "greedy"))
            router.plan_of(CHAIN, task(number, "greedy"))
        assert num_kept(router) == before

    def test_a_snapshot_with_more_is_cut(self) -> None:
        router, after = new_router(), new_router()
        for number in range(100):
            router.agreement.record(pair(task(number)), blocks(0.8))
        data = dump(router, pool_hash="p", life="l", now_s=0.0)
        restore(after, data, pool_hash="p", life="l", now_s=0.0)
        assert after.agreement.known() == [pair(Traffic("warm")), pair(SAMPLED)]


class TestGivingWay:
    @pytest.fixture
    def router(self) -> Router:
        """One task in which nothing is accepted, then many in which most is."""
        router = new_router()
        router.observe(profile(), 0.0)
        serve(router, 0, alpha=0.05)
        for number in range(1, MOST_KINDS - len(ROOTS)):
            serve(router, number)
        return router

    def test_a_kind_that_has_gone_agrees_as_all_of_its_regime_do(self, router: Router) -> None:
        agreement, regime = router.agreement, pair(Traffic("warm"))
        assert agreement.curve(pair(task(0))).mean < 0.2 < 0.5 < agreement.curve(regime).mean
        assert agreement.curve(pair(task(1))) != agreement.curve(regime)
        serve(router, MOST_KINDS)
        assert task(0) not in router.kinds
        assert agreement.curve(pair(task(0))) == agreement.curve(regime)
        assert agreement.expected(pair(task(0))) == agreement.expected(regime)
        assert agreement.curve(pair(task(1))) != agreement.curve(regime), "it has not gone"

    def test_the_regime_keeps_what_it_has_learned_of_it(self, router: Router) -> None:
        regime = pair(Traffic("warm"))
        with_it = router.agreement.curve(regime)
        router.agreement.keep(ROOTS)
        assert router.agreement.curve(regime) == with_it

    def test_it_begins_anew_when_it_comes_back(self, router: Router) -> None:
        serve(router, MOST_KINDS)
        serve(router, 0, alpha=0.95)
        assert router.agreement.curve(pair(task(0))).mean > 0.85

    def test_no_curve_of_it_outlives_it(self) -> None:
        table = AgreementTable()
        table.record(pair(task(0)), blocks(0.1))
        table.record(pair(task(1)), blocks(0.9))
        assert table.curve(pair(task(0))).mean < 0.3
        table.keep(ROOTS)
        table.record(PairKey("medium", "target", task(0)), blocks(0.5))
        assert table.curve(pair(task(0))) == table.curve(pair(Traffic("warm")))


class TestKinds:
    def test_the_one_not_seen_for_longest_gives_way_and_roots_never(self) -> None:
        kinds = Kinds()
        num_tasks = MOST_KINDS - len(ROOTS)
        assert not any(kinds.see(task(number), 0, 1.0) for number in range(num_tasks))
        assert not kinds.see(task(0), 0, 2.0)
        assert kinds.see(task(num_tasks), 0, 3.0)
        assert task(0) in kinds and task(1) not in kinds
        assert list(kinds)[: len(ROOTS)] == list(ROOTS) and list(kinds)[-1] == task(num_tasks)

    def test_wider_kinds_are_seen_too_and_no_other_load(self) -> None:
        kinds = Kinds()
        kinds.see(task(0), 2, 5.0)
        assert kinds.is_fresh(SAMPLED, 2, 6.0) and kinds.is_fresh(task(0), 2, 6.0)
        assert not kinds.is_fresh(SAMPLED, 1, 6.0) and not kinds.is_fresh(GREEDY, 2, 6.0)
        assert not kinds.is_fresh(SAMPLED, 2, 60.0) and not kinds.is_fresh(SAMPLED, 2, 4.0)
