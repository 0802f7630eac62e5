"""Similarity: from rows of any text to expected agreement at any temperature."""

from dataclasses import replace

import numpy as np
import pytest

from specrouter_dist.routing.agreement import PRIOR_AGREEMENT, AgreementTable
from specrouter_dist.routing.comparisons import Comparison, Comparisons, Origin
from specrouter_dist.routing.evidence import Source
from specrouter_dist.routing.observations import LawReading, PairKey, Survival
from specrouter_dist.routing.scores import USUAL_PLACES, Score, Scores, place
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.routing.traffic import GREEDY, SAMPLED, Traffic
from specrouter_dist.speculation.noise import gumbel_row
from tests.unit.routing.learned import alike, blocks, law_readings

WARM, HOT, MATHS = Traffic("warm"), Traffic("hot"), Traffic("hot", "maths")
PAIR = PairKey("small", "target", WARM)
NUM_IDS = 90
USUAL_PLACE = USUAL_PLACES[Origin.SAMPLED]
NAMES = ("small", "medium", "target")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def random_logits(num_rows: int = 8, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Of two models that are somewhat alike."""
    rng = np.random.default_rng(seed)
    one = 2.5 * rng.standard_normal((num_rows, NUM_IDS))
    return one, one + 0.8 * rng.standard_normal((num_rows, NUM_IDS))


def compared(one: np.ndarray, other: np.ndarray) -> dict[PairKey, Comparison]:
    comparisons, rows = Comparisons(NAMES), [SparseRows.of(softmax(x)) for x in (one, other)]
    assert not list(comparisons.add(LawReading(1, "small", MATHS, rows[0])))
    return dict(comparisons.add(LawReading(1, "medium", MATHS, rows[1])))


class TestComparisons:
    @pytest.mark.parametrize("regime", ["cool", "warm", "hot"])
    def test_members_that_share_their_noise_agree_within_the_bounds(self, regime: str) -> None:
        temperature = {"cool": 0.3, "warm": 0.8, "hot": 1.0}[regime]
        one, other = random_logits()
        noise = np.stack([gumbel_row(7, t, NUM_IDS) for t in range(2000)])
        agreed = [
            ((p / temperature + noise).argmax(1) == (q / temperature + noise).argmax(1)).mean()
            for p, q in zip(one, other, strict=True)
        ]
        found = compared(one, other)[PairKey("small", "medium", Traffic(regime, "maths"))]
        assert found.num_positions == 8
        assert found.least - 0.01 < np.mean(agreed) < found.most + 0.01
        assert found.most - found.least < 0.2
        expected = Score(found, 0.0).agreement(USUAL_PLACES)
        assert expected == pytest.approx(np.mean(agreed), abs=0.05)
        assert found.least <= found.score <= found.most

    def test_greedy_requests_agree_where_the_likeliest_ids_do(self) -> None:
        one, other = random_logits()
        share = (one.argmax(1) == other.argmax(1)).mean()
        assert 0.0 < share < 1.0
        found = compared(one, other)[PairKey("small", "medium", Traffic("greedy", "maths"))]
        assert found[:3] == (share, share, share)

    def test_it_is_kept_what_texts_they_come_from(self) -> None:
        for traffic, origin in ((GREEDY, Origin.GREEDY), (MATHS, Origin.SAMPLED)):
            comparisons = Comparisons(NAMES)
            found = [
                comparison
                for reading in law_readings(1)
                for _, comparison in comparisons.add(replace(reading, traffic=traffic))
            ]
            assert {comparison.origin for comparison in found} == {origin}

    def test_both_ways_round_it_is_the_same_and_the_target_drafts_for_none(self) -> None:
        comparisons = Comparisons(NAMES)
        found = [
            pair
            for name in ("small", "target", "medium")
            for pair in comparisons.add(replace(law_readings(1)[0], member=name))
        ]
        directions = {pair[:2] for pair, _ in found}
        assert directions == {
            ("small", "target"),
            ("medium", "target"),
            ("small", "medium"),
            ("medium", "small"),
        }
        assert len(found) == 7 * len(directions)

    def test_texts_do_not_mix_and_none_counts_twice(self) -> None:
        comparisons, (one, other) = Comparisons(NAMES), law_readings(1)
        assert not list(comparisons.add(one))
        assert not list(comparisons.add(one))
        assert not list(comparisons.add(replace(other, request=2)))
        assert list(comparisons.add(other))

    def test_rows_of_other_positions_are_not_joined(self) -> None:
        comparisons, (one, other) = Comparisons(NAMES), law_readings(1)
        rows = other.rows
        fewer = SparseRows(rows.ids[:3], rows.logprobs[:3], rows.tails[:3], rows.vocab_size)
        assert not list(comparisons.add(one))
        assert not list(comparisons.add(replace(other, rows=fewer)))

    def test_what_never_becomes_complete_is_given_up(self) -> None:
        comparisons, (one, other) = Comparisons(NAMES), law_readings(0)
        for request in range(100):
            list(comparisons.add(replace(one, request=request)))
        assert not list(comparisons.add(replace(other, request=0)))
        assert list(comparisons.add(replace(other, request=99)))


class TestScores:
    def test_a_task_is_told_apart_and_counts_for_all(self) -> None:
        scores = Scores()
        scores.record(PAIR._replace(traffic=Traffic("warm", "maths")), alike(0.9), 1.0)
        scores.record(PAIR._replace(traffic=Traffic("warm", "code")), alike(0.5), 2.0)
        both = scores.get(PAIR, Origin.SAMPLED)
        assert both is not None and both.at_s == 2.0
        assert both.mean.score == pytest.approx(0.7, abs=0.01)
        maths = PAIR._replace(traffic=Traffic("warm", "maths"))
        assert [score.mean.score for score in scores.layers(maths)] == [both.mean.score, 0.9]

    def test_sampled_requests_of_which_no_more_is_known_count_as_warm(self) -> None:
        scores = Scores()
        scores.record(PAIR, alike(0.8), 1.0)
        assert scores.get(PAIR._replace(traffic=SAMPLED), Origin.SAMPLED) is scores.get(
            PAIR, Origin.SAMPLED
        )
        assert scores.get(PAIR._replace(traffic=GREEDY), Origin.SAMPLED) is None

    def test_what_is_older_counts_less(self) -> None:
        score = Score(alike(0.2), 0.0)
        for _ in range(1000):
            score.add(alike(0.2), 1.0)
        assert score.mean.num_positions < 1100
        for _ in range(300):
            score.add(alike(0.9), 2.0)
        assert score.mean.score == pytest.approx(0.83, abs=0.02)

    def test_off_texts_of_the_same_kind_it_is_more_direct(self) -> None:
        for own, other, kind in (
            (Origin.SAMPLED, Origin.GREEDY, WARM),
            (Origin.GREEDY, Origin.SAMPLED, GREEDY),
        ):
            scores, key = Scores(), PAIR._replace(traffic=kind)
            scores.record(key, alike(0.5, own), 1.0)
            scores.record(key, alike(0.9, other), 2.0)
            assert [score.mean.origin for score in scores.layers(key)] == [other, own]


class TestPlace:
    def test_nothing_observed_is_the_usual_place(self) -> None:
        assert place(Origin.SAMPLED, []) == pytest.approx(USUAL_PLACE)

    def test_it_is_where_observed_pairs_lie(self) -> None:
        score = Score(Comparison(0.8, 0.7, 0.9, 64.0, Origin.SAMPLED), 0.0)
        assert place(Origin.SAMPLED, [(score, 0.74, 1e5)]) == pytest.approx(0.2, abs=0.01)

    def test_a_pair_beyond_its_bounds_counts_for_no_more_than_their_ends(self) -> None:
        score = Score(Comparison(0.8, 0.7, 0.9, 64.0, Origin.SAMPLED), 0.0)
        assert place(Origin.SAMPLED, [(score, 0.0, 1e9)]) == pytest.approx(0.0, abs=1e-3)
        assert place(Origin.SAMPLED, [(score, 0.0, 500.0), (score, 0.88, 500.0)]) > 0.4

    def test_pairs_whose_bounds_meet_say_nothing(self) -> None:
        score = Score(Comparison(1.0, 1.0, 1.0, 64.0, Origin.SAMPLED), 0.0)
        assert place(Origin.SAMPLED, [(score, 0.0, 1e9)]) == pytest.approx(USUAL_PLACE)


def compare(table: AgreementTable, agreement: float, texts: int = 8, kind: Traffic = WARM) -> None:
    for _ in range(texts):
        table.compare(PAIR._replace(traffic=kind), alike(agreement), 1.0)


class TestLayer:
    @pytest.fixture
    def table(self) -> AgreementTable:
        return AgreementTable()

    @pytest.mark.parametrize("agreement", [0.0, 0.3, 0.85, 1.0])
    def test_pairs_never_drafted_are_expected_to_agree_as_they_are_alike(
        self, table: AgreementTable, agreement: float
    ) -> None:
        compare(table, agreement)
        curve = table.curve(PAIR)
        assert curve.mean == pytest.approx(agreement, abs=0.05)
        survival = [curve.survival(n) for n in range(1, 8)]
        assert survival == pytest.approx([agreement**n for n in range(1, 8)], abs=0.12)
        assert curve.empty == 0.0
        assert table.knows("small", "target")

    def test_one_text_is_little_evidence(self, table: AgreementTable) -> None:
        compare(table, 0.0, texts=1)
        assert 0.1 < table.curve(PAIR).mean < PRIOR_AGREEMENT

    def test_greedy_texts_promise_their_least_until_it_is_known_what_comes_of_it(
        self, table: AgreementTable
    ) -> None:
        promise = Comparison(0.7, 0.5, 0.8, 8.0, Origin.GREEDY)
        table.compare(PAIR, promise, 1.0)
        expected = table.expected(PAIR)
        assert expected is not None and expected.mean == 0.5
        table.record(PAIR, blocks(0.75))
        expected = table.expected(PAIR)
        assert expected is not None and 0.6 < expected.mean < 0.75
        assert table.places[Origin.SAMPLED] == pytest.approx(USUAL_PLACE)

    def test_other_temperatures_are_told_apart(self, table: AgreementTable) -> None:
        compare(table, 0.9)
        compare(table, 0.4, kind=HOT)
        assert table.curve(PAIR).mean == pytest.approx(0.9, abs=0.05)
        assert table.curve(PAIR._replace(traffic=HOT)).mean == pytest.approx(0.4, abs=0.05)
        assert table.curve(PAIR._replace(traffic=GREEDY)).mean == PRIOR_AGREEMENT

    @pytest.mark.parametrize("source", list(Source))
    def test_what_replays_and_verifies_say_comes_after_it(
        self, table: AgreementTable, source: Source
    ) -> None:
        compare(table, 0.9)
        table.record(PAIR, blocks(0.3), source)
        assert table.curve(PAIR).mean == pytest.approx(0.3, abs=0.03)
        compare(table, 0.9, texts=100)
        assert table.curve(PAIR).mean == pytest.approx(0.3, abs=0.03)

    def test_a_member_that_lies_is_overruled_within_eight_blocks(
        self, table: AgreementTable
    ) -> None:
        """It says that it is just like the target, and never agrees."""
        compare(table, 1.0, texts=1000)
        assert table.curve(PAIR).tokens[8] > 7.0
        table.record(PAIR, Survival([8], [0], 8))
        assert table.curve(PAIR).mean < 0.35
        assert table.curve(PAIR).tokens[8] < 1.2
        assert table.curve(PAIR._replace(traffic=Traffic("warm", "code"))).tokens[8] < 1.2

    def test_nor_does_it_change_what_is_expected_of_others(self, table: AgreementTable) -> None:
        compare(table, 1.0, texts=1000)
        table.record(PAIR, Survival([1000], [0], 1000))
        assert table.places[Origin.SAMPLED] == pytest.approx(USUAL_PLACE)

    def test_pairs_that_were_observed_say_where_between_the_bounds_others_lie(
        self, table: AgreementTable
    ) -> None:
        wide = Comparison(0.7, 0.5, 0.8, 8.0, Origin.SAMPLED)
        other = PAIR._replace(draft="medium")
        for _ in range(8):
            table.compare(PAIR, wide, 1.0)
            table.compare(other, wide, 1.0)
        before = table.curve(other).mean
        assert before == pytest.approx(0.5 + USUAL_PLACE * 0.3, abs=0.02)
        for _ in range(10):
            table.record(PAIR, blocks(0.55), Source.REPLAYED)
        table.compare(other, wide, 1.0)
        assert table.places[Origin.SAMPLED] < 0.25
        assert table.curve(other).mean < before - 0.1

    def test_greedy_evidence_says_nothing_of_the_place(self, table: AgreementTable) -> None:
        table.compare(PAIR, Comparison(0.7, 0.5, 0.8, 8.0, Origin.SAMPLED), 1.0)
        table.record(PAIR._replace(traffic=GREEDY), blocks(0.55))
        assert table.places[Origin.SAMPLED] == pytest.approx(USUAL_PLACE)

    def test_it_has_its_own_place_among_the_grounds(self, table: AgreementTable) -> None:
        table.compare(PAIR, Comparison(0.7, 0.5, 0.8, 8.0, Origin.SAMPLED), 1.0)
        for kind in (WARM, SAMPLED, Traffic("warm", "code")):
            grounds = table.grounds(PAIR._replace(traffic=kind), 31.0)
            assert (grounds.chained, grounds.replayed) == (None, None)
            assert grounds.traffic == kind
            alike = grounds.similar
            assert alike is not None
            assert (alike.score, alike.least, alike.most) == (0.7, 0.5, 0.8)
            assert alike.agreement == pytest.approx(0.725)
            assert (alike.num_positions, alike.age_s) == (8.0, 30.0)
        assert table.grounds(PAIR._replace(traffic=HOT), 31.0).similar is None

    def test_pairs_only_compared_are_listed_once_for_the_widest_kinds(
        self, table: AgreementTable
    ) -> None:
        for kind in (GREEDY, WARM, HOT, Traffic("warm", "code")):
            compare(table, 0.8, kind=kind)
        listed = table.newest(10)
        assert set(listed) == {PAIR._replace(traffic=kind) for kind in (GREEDY, SAMPLED)}


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_texts_at_one_temperature_say_what_will_be_at_another(temperature: float) -> None:
    """Rows do not know at which temperature their text was written."""
    regime = {0.3: "cool", 1.0: "hot"}[temperature]
    table, comparisons = AgreementTable(), Comparisons(NAMES)
    agreed = []
    for request in range(8):
        logits = random_logits(seed=request)
        rows = [SparseRows.of(softmax(each)) for each in logits]
        for name, row in zip(("small", "target"), rows, strict=True):
            for pair, comparison in comparisons.add(LawReading(request, name, GREEDY, row)):
                table.compare(pair, comparison, 0.0)
        noise = np.stack([gumbel_row(request, t, NUM_IDS) for t in range(300)])[:, None]
        one, other = ((each / temperature + noise).argmax(2) for each in logits)
        agreed.append((one == other).mean())
    expected = table.expected(PAIR._replace(traffic=Traffic(regime)))
    assert expected is not None
    layer = next(iter(table.scores.layers(PAIR._replace(traffic=Traffic(regime)))))
    assert layer.mean.least == expected.mean < np.mean(agreed) < layer.mean.most + 0.01
    assert layer.agreement({Origin.GREEDY: USUAL_PLACE}) == pytest.approx(np.mean(agreed), abs=0.04)
