"""The planner against a search of everything, and the ways in which a target can be drafted for."""

import math
import random
from itertools import combinations, product

import pytest

from specrouter_dist.config import EdgeKnobs, LookupMember, Plan
from specrouter_dist.routing.agreement import AgreementTable, Source
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.observations import (
    ForwardKey,
    ForwardTimes,
    Observations,
    Pace,
    PaceKey,
    PairKey,
    Survival,
)
from specrouter_dist.routing.planner import Candidate, to_plan
from specrouter_dist.routing.replay import own_text_names
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY


def survival(alpha: float, num_blocks: int = 100_000, empty: float = 0.0) -> Survival:
    made = Survival(num_blocks=num_blocks, num_empty=round(num_blocks * empty))
    reached = float(num_blocks - made.num_empty)
    for _ in range(17):
        made.reached.append(round(reached))
        reached *= alpha
        made.accepted.append(round(reached))
    return made


def router(
    times_us: dict[str, float],
    alphas: dict[tuple[str, str], float],
    *,
    hop_us: float = 0.0,
    lookup: bool = False,
    one_device: bool = True,
    devices: dict[str, str] | None = None,
) -> Router:
    lookups = {"lookup": LookupMember(kind="lookup")} if lookup else {}
    devices = devices or {name: "one" if one_device else name for name in times_us}
    made = Router(list(times_us), lookups, devices, hop_us=hop_us)
    found = Observations(is_profile=True)
    for name, us in times_us.items():
        for rows in (1, 17):
            found.forwards[ForwardKey(name, rows, 1)] = ForwardTimes(1, us * (1 + 0.01 * rows))
        for drafts in (1, 15):
            found.forwards[ForwardKey(name, 1, 1, drafts)] = ForwardTimes(1, us * (drafts + 1))
    made.observe(found, 0.0)
    told = Observations()
    for (draft, verifier), alpha in alphas.items():
        told.pairs[PairKey(draft, verifier, GREEDY)] = survival(alpha)
    made.observe(told, 0.0)
    return made


def cost_us(made: Router, chain: tuple[str, ...], lengths: tuple[int, ...]) -> float:
    """What a chain costs in lock-step with these lengths."""
    plan = to_plan(Candidate(chain, lengths, 1.0), 1)
    prediction = made._planner.predict(plan, Regime(GREEDY))
    assert prediction is not None
    return prediction.predicted_us


@pytest.mark.parametrize("seed", range(12))
def test_the_dynamic_programme_finds_what_a_search_of_everything_finds(seed: int) -> None:
    rng = random.Random(seed)
    names = ["a", "b", "c", "target"]
    speeds = sorted(math.exp(rng.uniform(0, 4)) * 50 for _ in names)
    times_us = dict(zip(names, speeds, strict=True))
    alphas = {pair: rng.uniform(0.2, 0.95) for pair in combinations(names, 2)}
    made = router(times_us, alphas, hop_us=80.0)
    best = math.inf
    for count in range(4):
        for upstream in combinations(names[:-1], count):
            chain = (*upstream, "target")
            for lengths in product(range(1, 17, 1 if count < 3 else 3), repeat=count):
                best = min(best, cost_us(made, chain, lengths))
    found = made.candidates(GREEDY)[0]
    assert found.predicted_us <= 1.01 * best
    assert found.predicted_us == pytest.approx(cost_us(made, found.chain, found.num_draft_tokens))


@pytest.mark.parametrize("seed", range(12))
def test_of_many_members_few_ways_are_kept_and_the_best_is_among_them(seed: int) -> None:
    rng = random.Random(seed)
    names = [*"abcdefgh", "target"]
    times_us = {name: 50.0 * 1.8**k * rng.uniform(0.8, 1.2) for k, name in enumerate(names)}
    alphas = {
        (draft, verifier): 1 - rng.uniform(0.05, 0.2) * (names.index(verifier) - k)
        for k, draft in enumerate(names)
        for verifier in names[k + 1 :]
    }
    made = router(times_us, {pair: max(0.05, alpha) for pair, alpha in alphas.items()})
    subsets = [u for count in range(9) for u in combinations(names[:-1], count)]
    found = [made._planner.evaluate((*upstream, "target"), Regime(GREEDY)) for upstream in subsets]
    all_us = [way.predicted_us for way in found if way is not None]
    assert len(all_us) == 256
    assert made.candidates(GREEDY)[0].predicted_us <= 1.01 * min(all_us)


def test_drafters_of_one_size_do_not_draft_for_each_other() -> None:
    times_us = {"one": 200.0, "two": 190.0, "target": 3000.0}
    # By itself it would pay: copies from the prompt make the first one fast.
    alphas = {("lookup", "two"): 0.85, ("two", "one"): 0.9, ("one", "target"): 0.9}
    alphas |= {("lookup", "one"): 0.1, ("lookup", "target"): 0.1, ("two", "target"): 0.1}
    made = router(times_us, alphas, lookup=True)
    best = made.candidates(GREEDY)[0]
    through_both = made._planner.evaluate(("lookup", "two", "one", "target"), Regime(GREEDY))
    assert through_both is not None and through_both.predicted_us < best.predicted_us
    assert all(not {"one", "two"} <= {*way.chain} for way in made.candidates(GREEDY))


TWO_US = {"small": 200.0, "target": 3000.0}


class TestOwnText:
    def tell(self, made: Router, share: float, matched: float, drafted: float) -> None:
        own, beside = own_text_names("small", 3)
        told = Observations()
        told.pairs[PairKey(own, "target", GREEDY)] = survival(matched, empty=1 - share)
        told.pairs[PairKey(beside, "target", GREEDY)] = survival(drafted)
        made.observe(told, 0.0)

    def test_it_is_used_where_it_pays(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.7})
        self.tell(made, share=0.5, matched=0.95, drafted=0.68)
        best = made.candidates(GREEDY)[0]
        assert best.match_tokens == (3,)
        assert to_plan(best, 1).edges[-1].match_tokens == 3

    def test_and_not_where_matches_mislead(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.7})
        self.tell(made, share=0.5, matched=0.2, drafted=0.7)
        assert made.candidates(GREEDY)[0].match_tokens == (0,)

    def test_nor_where_nothing_is_known_of_it(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.7})
        assert made.candidates(GREEDY)[0].match_tokens == (0,)

    def test_the_cost_is_that_of_the_mixture(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.7})
        self.tell(made, share=0.5, matched=0.9, drafted=0.6)
        found = made.candidates(GREEDY)[0]
        (g,) = found.num_draft_tokens
        tokens = [sum(alpha**k for k in range(g + 1)) for alpha in (0.9, 0.6)]
        forward, block = made.latency.forward_us("target", g + 1), 200.0 * g
        assert forward is not None
        expected = (forward + 0.5 * block) / (0.5 * sum(tokens))
        assert found.predicted_us == pytest.approx(expected, rel=0.02)

    @pytest.mark.parametrize("pair", [("small", "medium"), ("medium", "target")])
    def test_each_verifier_of_a_chain_for_itself(self, pair: tuple[str, str]) -> None:
        made = router(
            {"small": 300.0, "medium": 800.0, "target": 9000.0},
            {("small", "medium"): 0.8, ("medium", "target"): 0.9, ("small", "target"): 0.3},
        )
        draft, verifier = pair
        own, beside = own_text_names(draft, 3)
        told = Observations()
        told.pairs[PairKey(own, verifier, GREEDY)] = survival(0.99, empty=0.4)
        told.pairs[PairKey(beside, verifier, GREEDY)] = survival(0.8)
        made.observe(told, 0.0)
        best = made.candidates(GREEDY)[0]
        assert best.chain == ("small", "medium", "target")
        matches = [edge.match_tokens for edge in to_plan(best, 1).edges]
        assert matches == ([3, 0] if verifier == "medium" else [0, 3])

    def test_what_is_handed_down_comes_sooner(self) -> None:
        """A stage that continues its own text needs fewer rounds and waits for nobody."""
        taus_us = []
        for share in (0.0, 0.5):
            made = router(
                {"small": 300.0, "medium": 800.0, "target": 9000.0},
                {("small", "medium"): 0.8, ("medium", "target"): 0.9},
            )
            own, beside = own_text_names("small", 3)
            told = Observations()
            told.pairs[PairKey(own, "medium", GREEDY)] = survival(0.99, empty=1 - share)
            told.pairs[PairKey(beside, "medium", GREEDY)] = survival(0.8)
            made.observe(told, 0.0)
            edges = tuple(
                EdgeKnobs(window=w, burst=8, patience=4, match_tokens=m)
                for w, m in ((8, 3), (13, 0))
            )
            plan = Plan(number=0, chain=("small", "medium", "target"), edges=edges)
            predicted = made._planner.predict(plan, Regime(GREEDY))
            assert predicted is not None
            taus_us.append(predicted.predicted_us)
        assert taus_us[1] < 0.95 * taus_us[0]


def _in_turn(plan: Plan) -> tuple[EdgeKnobs, ...]:
    edge = plan.edges[-1]
    return (*plan.edges[:-1], edge.model_copy(update={"window": edge.burst}))


class TestMeasurementDecides:
    def test_a_chain_whose_rounds_take_longer_than_predicted_is_left(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.4})
        made.decide(0.0)
        plan = made.table.plan(GREEDY)
        assert plan.chain == ("small", "target")
        slow = Observations()
        slow.paces[PaceKey(plan, GREEDY, 1)] = Pace(1000, 2000, 1000 * 6_000.0)
        made.observe(slow, 0.0)
        made.decide(0.0)
        made.decide(0.5)
        assert made.table.plan(GREEDY).chain == ("target",)

    def test_drafting_ahead_may_be_given_up_and_the_chain_kept(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.7}, one_device=False)
        made.decide(0.0)
        plan = made.table.plan(GREEDY)
        assert plan.edges[-1].drafts_ahead
        lock_step = plan.model_copy(update={"edges": _in_turn(plan)})
        for each, ratio in ((plan, 1.4), (lock_step, 1.0)):
            prediction = made._planner.predict(each, Regime(GREEDY))
            assert prediction is not None
            total_us = 1000 * ratio * prediction.round_us
            measured = Observations(paces={PaceKey(each, GREEDY, 1): Pace(1000, 3000, total_us)})
            for _ in range(5):
                made.observe(measured, 0.0)
        best = made.candidates(GREEDY)[0]
        assert best.chain == plan.chain
        assert best.aheads == (0,)

    def test_and_tried_again_when_that_is_long_ago(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.4})
        made.decide(0.0)
        plan = made.table.plan(GREEDY)
        slow = Observations()
        slow.paces[PaceKey(plan, GREEDY, 1)] = Pace(1000, 2000, 1000 * 6_000.0)
        made.observe(slow, 0.0)
        made.decide(0.0)
        made.decide(0.5)
        alone = made.table.plan(GREEDY)
        for second in range(1, 300):
            fine = Observations()
            fine.paces[PaceKey(alone, GREEDY, 1)] = Pace(100, 100, 100 * 3030.0)
            for member, us in TWO_US.items():
                fine.forwards[ForwardKey(member, 1, 1)] = ForwardTimes(1, 1.01 * us)
            made.observe(fine, float(second))
            made.decide(float(second))
            if made.table.plan(GREEDY).chain != ("target",):
                break
        assert second > 20, "not after every hiccup"
        assert made.table.plan(GREEDY).chain == ("small", "target")

    def test_a_faster_round_than_predicted_counts_too(self) -> None:
        made = router(TWO_US, {("small", "target"): 0.4})
        before = made.candidates(GREEDY)[0].predicted_us
        made.decide(0.0)
        plan = made.table.plan(GREEDY)
        regime = Regime(GREEDY)
        prediction = made._planner.predict(plan, regime)
        assert prediction is not None
        fast = Observations()
        fast.paces[PaceKey(plan, GREEDY, 1)] = Pace(1000, 2000, 800 * prediction.round_us)
        made.observe(fast, 0.0)
        assert made.candidates(GREEDY)[0].predicted_us == pytest.approx(0.8 * before, rel=0.02)


class TestRefusals:
    def test_what_cannot_be_true_is_counted_and_changes_nothing(self) -> None:
        made = router({"small": 200.0, "target": 3000.0}, {("small", "target"): 0.7})
        before = made.candidates(GREEDY)
        lies = Observations()
        key = ForwardKey("target", 5, 1)
        lies.forwards[key] = ForwardTimes(10, math.nan)
        lies.forwards[ForwardKey("target", 4, 1)] = ForwardTimes(10, -5.0)
        lies.pairs[PairKey("small", "target", GREEDY)] = Survival([10], [50], 10)
        lies.paces[PaceKey(made.table.plan(GREEDY), GREEDY, 1)] = Pace(10, 10, math.inf)
        made.observe(lies, 0.0)
        assert made.num_refused == 4
        assert made.candidates(GREEDY) == before

    def test_a_pool_of_one_member_has_one_plan(self) -> None:
        made = router({"target": 3000.0}, {})
        made.decide(0.0)
        assert [c.chain for c in made.candidates(GREEDY)] == [("target",)]
        assert made.table.plan(GREEDY).chain == ("target",)

    def test_a_drafter_that_never_agrees_is_not_used(self) -> None:
        made = router({"small": 200.0, "target": 3000.0}, {("small", "target"): 0.0})
        made.decide(0.0)
        assert made.table.plan(GREEDY).chain == ("target",)


def test_a_clock_that_is_set_back_does_not_keep_a_member_slow() -> None:
    made = router({"small": 200.0, "target": 3000.0}, {})
    for mean_us in (200.0, 1000.0, 1000.0):
        told = Observations()
        told.forwards[ForwardKey("small", 1, 1)] = ForwardTimes(50, 50 * mean_us)
        made.observe(told, 1e6)
    before_us = made.latency.forward_us("small", 1)
    for second in range(30):
        made.observe(Observations(), float(second))
    after_us = made.latency.forward_us("small", 1)
    assert before_us is not None and after_us is not None
    assert after_us < 0.3 * before_us


def test_predicted_and_measured_tokens_are_kept() -> None:
    made = router({"small": 200.0, "target": 3000.0}, {("small", "target"): 0.7})
    told = Observations()
    told.pairs[PairKey("small", "target", GREEDY)] = survival(0.5, num_blocks=1000)
    made.observe(told, 7.0)
    outcome = made.journal.agreements[-1]
    assert outcome.of == "small -> target"
    assert outcome.predicted == pytest.approx(sum(0.7**k for k in range(18)), rel=0.05)
    assert outcome.measured == pytest.approx(2.0, rel=0.02)


def test_replays_inform_the_table_and_are_kept_apart() -> None:
    table = AgreementTable()
    key = PairKey("small", "target", GREEDY)
    table.record(key, survival(0.8, num_blocks=1000), Source.REPLAYED)
    assert table.evidence(key, Source.CHAINED) is None
    replayed = table.evidence(key, Source.REPLAYED)
    assert replayed is not None and replayed.mean == pytest.approx(0.8, abs=0.01)


class TestSlim:
    """A member that is a part of the target and runs on its device."""

    def best(self, skip: float, agreement: float, device: str = "target") -> tuple[str, ...]:
        """The chain that is chosen for a slim member that skips this share of the target."""
        times_us = {"small": 50.0, "slim": 1000.0 * (1 - skip), "target": 1000.0}
        alphas = {
            ("small", "slim"): 0.6,
            ("small", "target"): 0.6,
            ("slim", "target"): agreement,
        }
        devices = {"small": "target", "slim": device, "target": "target"}
        return router(times_us, alphas, devices=devices).candidates(GREEDY)[0].chain

    @pytest.mark.parametrize(
        ("skip", "agreement", "is_taken"),
        [
            (0.45, 0.97, True),
            (0.45, 0.90, False),
            (0.60, 0.95, True),
            (0.60, 0.80, False),
            (0.75, 0.90, True),
        ],
    )
    def test_it_is_taken_only_where_agreement_and_cost_say_so(
        self, skip: float, agreement: float, is_taken: bool
    ) -> None:
        chain = self.best(skip, agreement)
        assert chain == (("small", "slim", "target") if is_taken else ("small", "target"))

    def test_a_device_of_its_own_would_be_worth_more(self) -> None:
        assert "slim" not in self.best(0.45, 0.92)
        assert "slim" in self.best(0.45, 0.92, device="another")
