"""How likely tokens are to stand: by their gaps, and by what became of others."""

from specrouter_dist.speculation.odds import Odds


def test_what_was_near_is_doubtful() -> None:
    odds = Odds()
    chances = [odds.stands(gap) for gap in (0.0, 0.2, 0.7, 3.0, float("inf"))]
    assert chances == sorted(chances)
    assert 0.4 < chances[0] < 0.55
    assert chances[-1] > 0.99


def test_judgements_outweigh_the_prior_and_old_ones_fade() -> None:
    odds = Odds()
    for _ in range(2000):
        odds.learn(3.0, lost=True, replaced=False)
    assert odds.stands(3.0) < 0.05
    assert odds.replaced(3.0) < 0.01
    for _ in range(2000):
        odds.learn(3.0, lost=True, replaced=True)
    assert odds.replaced(3.0) > 0.8
    assert odds.stands(0.2) == Odds().stands(0.2)


def test_before_any_judgement_a_runner_up_is_the_verifiers_as_often_as_was_measured() -> None:
    odds = Odds()
    for gap in (0.0, 0.7, 3.0):
        assert 0.28 <= odds.replaced(gap) / (1 - odds.stands(gap)) <= 0.39
