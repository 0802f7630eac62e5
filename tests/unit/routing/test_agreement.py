"""Layers of evidence: narrower kinds of requests rest on wider ones, chained on replayed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.config import SamplingParams
from specrouter_dist.routing.agreement import PRIOR_AGREEMENT, AgreementTable, Source
from specrouter_dist.routing.observations import ForwardTimes, PairKey, Survival
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic


def blocks(num_blocks: int, alpha: float, length: int = 8) -> Survival:
    survival = Survival(num_blocks=num_blocks)
    for k in range(length):
        survival.reached.append(round(num_blocks * alpha**k))
        survival.accepted.append(round(num_blocks * alpha ** (k + 1)))
    return survival


def pair(traffic: Traffic) -> PairKey:
    return PairKey("small", "target", traffic)


WARM, WARM_MATHS = Traffic("warm"), Traffic("warm", "maths")


class TestTraffic:
    @pytest.mark.parametrize(
        ("fields", "regime"),
        [
            ({"temperature": 0.0}, "greedy"),
            ({"temperature": 0.0, "top_p": 0.5}, "greedy"),
            ({"temperature": 0.3}, "cool"),
            ({"temperature": 0.8}, "warm"),
            ({"temperature": 1.0}, "hot"),
            ({"temperature": 0.8, "top_p": 0.9}, "warm-truncated"),
            ({"temperature": 0.8, "top_k": 40}, "warm-truncated"),
            ({"temperature": 0.8, "top_k": -1}, "warm"),
            ({"temperature": 0.8, "min_p": 0.1}, "warm-truncated"),
        ],
    )
    def test_the_regime_is_that_of_the_sampling(
        self, fields: dict[str, float], regime: str
    ) -> None:
        assert Traffic.of(SamplingParams.model_validate(fields)) == Traffic(regime)

    def test_every_kind_goes_back_to_a_root(self) -> None:
        assert list(WARM_MATHS.lineage()) == [WARM_MATHS, WARM, SAMPLED]
        assert list(Traffic("greedy", "code").lineage()) == [Traffic("greedy", "code"), GREEDY]


class TestLayers:
    @pytest.fixture
    def table(self) -> AgreementTable:
        return AgreementTable()

    def test_a_narrow_kind_begins_where_the_wide_one_is(self, table: AgreementTable) -> None:
        table.record(pair(WARM), blocks(1000, 0.9))
        assert table.curve(pair(WARM_MATHS)) == table.curve(pair(WARM))
        assert table.curve(pair(Traffic("hot"))).mean == pytest.approx(0.9, abs=0.02)
        assert table.curve(pair(GREEDY)).mean == PRIOR_AGREEMENT

    def test_and_then_goes_its_own_way(self, table: AgreementTable) -> None:
        table.record(pair(Traffic("warm", "code")), blocks(1000, 0.9))
        table.record(pair(WARM_MATHS), blocks(1000, 0.4))
        assert table.curve(pair(WARM_MATHS)).mean == pytest.approx(0.4, abs=0.02)
        assert table.curve(pair(Traffic("warm", "code"))).mean == pytest.approx(0.9, abs=0.02)
        assert 0.4 < table.curve(pair(WARM)).mean < 0.9

    def test_little_evidence_leaves_the_wider_kind_standing(self, table: AgreementTable) -> None:
        table.record(pair(Traffic("warm", "code")), blocks(1000, 0.9))
        table.record(pair(WARM_MATHS), Survival([1], [0], 1))
        assert table.curve(pair(WARM_MATHS)).mean > 0.6

    def test_replays_inform_pairs_never_chained(self, table: AgreementTable) -> None:
        table.record(pair(GREEDY), blocks(1000, 0.3), Source.REPLAYED)
        assert table.curve(pair(GREEDY)).mean == pytest.approx(0.3, abs=0.02)

    def test_what_was_chained_has_the_last_word(self, table: AgreementTable) -> None:
        table.record(pair(GREEDY), blocks(1000, 0.8))
        table.record(pair(GREEDY), blocks(1000, 0.3), Source.REPLAYED)
        assert table.curve(pair(GREEDY)).mean == pytest.approx(0.8, abs=0.02)
        replayed = table.evidence(pair(GREEDY), Source.REPLAYED)
        assert replayed is not None and replayed.mean == pytest.approx(0.3, abs=0.02)

    def test_old_evidence_counts_less(self, table: AgreementTable) -> None:
        for _ in range(20):
            table.record(pair(GREEDY), blocks(100, 0.2))
        for _ in range(10):
            table.record(pair(GREEDY), blocks(100, 0.8))
        assert table.curve(pair(GREEDY)).mean == pytest.approx(0.8, abs=0.05)

    def test_other_pairs_learn_nothing(self, table: AgreementTable) -> None:
        table.record(pair(GREEDY), blocks(1000, 0.9))
        other = table.curve(PairKey("medium", "target", GREEDY))
        assert other.mean == PRIOR_AGREEMENT


class TestCurve:
    def test_more_proposals_never_yield_fewer_tokens(self) -> None:
        table = AgreementTable()
        table.record(pair(GREEDY), blocks(50, 0.7))
        tokens = table.curve(pair(GREEDY)).tokens
        assert list(tokens) == sorted(tokens)
        assert tokens[0] == 1.0

    @given(st.floats(0.0, 1.0), st.floats(0.0, 3.0))
    def test_scaled_shares_stay_shares(self, alpha: float, scale: float) -> None:
        table = AgreementTable()
        table.record(pair(GREEDY), blocks(100, alpha))
        curve = table.curve(pair(GREEDY)).scaled(scale)
        assert all(0.0 <= share <= 1.0 for share in curve.conditional)
        assert all(1.0 <= tokens <= n + 1 for n, tokens in enumerate(curve.tokens))

    def test_what_is_expected_of_blocks_is_what_came_when_nothing_has_changed(self) -> None:
        table = AgreementTable()
        for _ in range(100):
            table.record(pair(GREEDY), blocks(1000, 0.7))
        survival = blocks(1000, 0.7, length=4)
        # Half of the blocks are only two tokens long.
        survival.reached[2:] = [count // 2 for count in survival.reached[2:]]
        survival.accepted[2:] = [count // 2 for count in survival.accepted[2:]]
        expected = table.curve(pair(GREEDY)).accepted_of(survival)
        assert expected == pytest.approx(sum(survival.accepted), rel=0.02)


class TestPlausible:
    @pytest.mark.parametrize(
        "survival",
        [
            Survival([5], [6], 10),
            Survival([11], [5], 10),
            Survival([5, 5], [3, 3], 10),
            Survival([5], [-1], 10),
            Survival([10], [5], 10, num_empty=3),
            Survival([5, 4], [4], 10),
            Survival([], [], 1, num_empty=2),
            Survival([], [], 1),
        ],
    )
    def test_more_accepted_than_reached_is_a_lie(self, survival: Survival) -> None:
        assert not survival.is_plausible

    def test_what_blocks_add_up_to_is_none(self) -> None:
        survival = Survival()
        for proposed, accepted in ((4, 2), (0, 0), (8, 8), (1, 0)):
            survival.add(proposed, accepted)
        assert survival.is_plausible

    @pytest.mark.parametrize("total_us", [math.nan, math.inf, -1.0, 0.0])
    def test_clocks_do_not_say_so(self, total_us: float) -> None:
        assert not ForwardTimes(3, total_us).is_plausible
        assert not ForwardTimes(0, 5.0).is_plausible
