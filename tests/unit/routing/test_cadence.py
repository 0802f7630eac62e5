"""When decisions are made."""

from specrouter_dist.routing.cadence import Cadence
from specrouter_dist.routing.observations import Observations, PairKey, Survival
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY, Traffic
from tests.unit.routing.learned import learned_router, tokens
from tests.unit.routing.test_replay import reading


class TestCadence:
    def test_the_first_decision_is_due_at_once(self) -> None:
        assert Cadence().is_due(0.0)

    def test_the_longer_nothing_changes_the_more_seldom_decisions_are(self) -> None:
        made, now_s, waits_s = Cadence(), 100.0, []
        made.decided(now_s, has_changed=True)
        for _ in range(20):
            began_s = now_s
            while not made.is_due(now_s):
                now_s += 0.125
            waits_s.append(now_s - began_s)
            made.decided(now_s, has_changed=False)
        assert waits_s == sorted(waits_s)
        assert (waits_s[0], waits_s[-1]) == (2.0, 4.0)
        made.decided(now_s, has_changed=True)
        assert made.is_due(now_s + 2.0)

    def test_what_has_changed_is_decided_about_at_once_and_soon_again(self) -> None:
        made = Cadence()
        made.decided(0.0, has_changed=True)
        made.decided(100.0, has_changed=False)
        assert not made.is_due(102.0)
        made.hurry()
        assert made.is_due(102.0)
        made.decided(102.0, has_changed=False)
        assert not made.is_due(103.0)
        assert made.is_due(104.0)

    def test_a_clock_that_is_set_back_stops_nothing(self) -> None:
        made = Cadence()
        made.decided(1000.0, has_changed=True)
        assert made.is_due(10.0)
        made.decided(10.0, has_changed=False)
        assert made.is_due(12.0)


class TestSeen:
    def settled(self) -> Router:
        router = learned_router()
        for turn in range(400):
            router.decide(turn / 2)
        assert not router.is_due(201.0)
        return router

    def blocks(self, traffic: Traffic) -> Observations:
        return Observations(pairs={PairKey("small", "target", traffic): Survival([1], [1], 1)})

    def test_a_kind_that_was_not_seen_lately_is_decided_about_at_once(self) -> None:
        router = self.settled()
        router.observe(self.blocks(GREEDY), 201.0)
        assert router.is_due(201.0)
        router.decide(201.0)
        router.observe(self.blocks(GREEDY), 201.5)
        assert not router.is_due(201.5), "it is here already"
        router.observe(self.blocks(Traffic("hot")), 201.5)
        assert router.is_due(201.5)

    def test_a_text_that_is_read_late_is_no_request(self) -> None:
        router = self.settled()
        router.observe(Observations(readings=[reading("small", tokens(1, 2))]), 201.0)
        assert not router.is_due(201.0)
        router.observe(Observations(readings=[reading("target", tokens(1, 2))]), 201.0)
        assert router.is_due(201.0)
