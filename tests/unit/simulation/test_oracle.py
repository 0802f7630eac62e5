"""The picks agree as stated: on the target's path, off it, in blocks, in chains of three."""

import numpy as np
import pytest

from specrouter_dist.errors import ConfigError
from specrouter_dist.simulation.measuring import survival
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.speculation.joint_law import fit, groupings
from specrouter_dist.speculation.tokens import TokenBuffer
from tests.unit.simulation.profiles import FOLLOW, fields, profile

NAMES = ("small", "medium", "target")
TOKENS = 20_000
NOISE = 0.015
"""More than four standard errors of a share of 20,000."""


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(profile(NAMES))


def agreement(oracle: Oracle, draft: str, verifier: str, path_of: str) -> float:
    """Share of the prefixes of a stream of ``path_of`` after which both pick the same token."""
    text = oracle.text(7, TOKENS + 1)
    start = TokenBuffer([5])
    stream = TokenBuffer([5, *text.picks(oracle.index[path_of], 1, start.hash_at(1), (), TOKENS)])
    pair = (oracle.index[draft], oracle.index[verifier])
    picks = [
        [text.picks(member, i, stream.hash_at(i))[0] for i in range(1, TOKENS)] for member in pair
    ]
    return float(np.mean([a == b for a, b in zip(*picks, strict=True)]))


@pytest.mark.parametrize("pair", FOLLOW)
@pytest.mark.parametrize("path_of", NAMES)
def test_pairs_agree_as_stated_after_any_prefix(
    oracle: Oracle, pair: tuple[str, str], path_of: str
) -> None:
    assert agreement(oracle, *pair, path_of) == pytest.approx(FOLLOW[pair], abs=NOISE)


@pytest.mark.parametrize("burstiness", [0.0, 0.8])
def test_bursts_leave_the_agreement_and_lengthen_the_tail(burstiness: float) -> None:
    oracle = Oracle(profile(agreements={("small", "target"): 0.7}, burstiness=burstiness))
    share = agreement(oracle, "small", "target", "target")
    assert share == pytest.approx(0.7, abs=NOISE * (1 + 5 * burstiness))
    blocks = survival(oracle, "small", "target", 60_000, 8)
    all_eight = blocks.accepted[7] / blocks.reached[0]
    easy, hard = 0.7 + 0.3 * burstiness, 0.7 - 0.3 * burstiness
    if burstiness:
        assert 0.7**8 * 2 < all_eight < (easy**8 + hard**8) / 2
    else:
        assert all_eight == pytest.approx(0.7**8, rel=0.1)


def test_a_pair_that_is_not_stated_follows_from_the_others() -> None:
    stated = {pair: alpha for pair, alpha in FOLLOW.items() if pair != ("small", "target")}
    share = agreement(Oracle(profile(NAMES, stated)), "small", "target", "target")
    assert 0.7 + 0.8 - 1 < share < 0.7


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_runner_ups_are_right_as_often_as_stated_where_picks_differ(share: float) -> None:
    content = fields(agreements={("small", "target"): 0.6})
    content["agreements"][0]["runner_up_agreement"] = share
    text = Oracle(Profile.model_validate(content)).text(7, TOKENS + 1)
    start = TokenBuffer([5])
    stream = TokenBuffer([5, *text.picks(1, 1, start.hash_at(1), (), TOKENS)])
    draws = [text.draw(0, 1, i, stream.hash_at(i)) for i in range(1, TOKENS)]
    assert [draw.token for draw in draws] == [
        text.picks(0, i, stream.hash_at(i))[0] for i in range(1, TOKENS)
    ]
    are_right = [
        draw.runner_up == stream[i] for i, draw in enumerate(draws, 1) if draw.token != stream[i]
    ]
    assert float(np.mean(are_right)) == pytest.approx(share, abs=0.02)
    # Whether a pick stands is not to be seen in what comes with it.
    assert {draw.runner_up == draw.token for draw in draws} == {False}
    assert len({draw.gap for draw in draws}) == 1


def test_sessions_and_seeds_have_texts_of_their_own(oracle: Oracle) -> None:
    def text(of: Oracle, session: int) -> list[int]:
        return list(of.text(session, 100).picks(2, 1, 99, (), 50))

    assert text(oracle, 1) == text(Oracle(profile(NAMES)), 1)
    assert text(oracle, 1) != text(oracle, 2)
    assert text(oracle, 1) != text(Oracle(profile(NAMES, seed=1)), 1)


def test_the_fitted_law_has_the_stated_pairs() -> None:
    stated = {(0, 1): 0.8, (1, 2): 0.9, (0, 2): 0.71, (2, 3): 0.5}
    law = fit("abcd", stated)
    ways = np.array(groupings(4))
    assert len(ways) == 15
    assert law.sum() == pytest.approx(1.0)
    for (i, j), alpha in stated.items():
        assert law[ways[:, i] == ways[:, j]].sum() == pytest.approx(alpha, abs=1e-3)


def test_agreements_that_no_models_have_are_refused() -> None:
    pairs = {("small", "medium"): 0.9, ("medium", "target"): 0.9, ("small", "target"): 0.5}
    with pytest.raises(ConfigError, match=r"agreements: '\w+' with '\w+' at 0\.\d+ contradicts"):
        Oracle(profile(NAMES, pairs))
