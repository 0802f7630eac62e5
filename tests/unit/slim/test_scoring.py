"""What a mask is worth in a pool."""

from array import array

import numpy as np
import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.slim.scoring import SLIM, Neighbours, Scorer
from specrouter_dist.slim.texts import Text
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

GREEDY = SamplingParams(temperature=0.0)
TIMES_US = {"small": 100.0, "target": 2000.0}
NUM_TEXTS, NUM_TOKENS = 16, 120


def tokens(values: object) -> TokenArray:
    return array(TOKEN_TYPECODE, np.asarray(values, dtype=np.uint32).tobytes())


def texts() -> list[Text]:
    """That do not repeat themselves."""
    return [
        Text(
            i,
            GREEDY,
            tokens(range(5)),
            tokens(np.random.default_rng(i).permutation(4000)[:NUM_TOKENS]),
        )
        for i in range(NUM_TEXTS)
    ]


def agreeing(share: float, seed: int) -> list[TokenArray]:
    """Picks that are the target's this often."""
    rng = np.random.default_rng(seed)
    return [
        tokens(np.where(rng.random(NUM_TOKENS) < share, np.asarray(of.output), 4000))
        for of in texts()
    ]


def profile(**times_us: float) -> Observations:
    found = Observations(is_profile=True)
    for name, us in times_us.items():
        for rows in (1, 17):
            found.forwards[ForwardKey(name, rows, 1)] = ForwardTimes(1, us * (1 + 0.002 * rows))
        for drafts in (1, 15):
            found.forwards[ForwardKey(name, 1, 1, drafts)] = ForwardTimes(1, us * (drafts + 1))
    return found


def scorer(*, one_device: bool = True) -> Scorer:
    names = tuple(TIMES_US)
    devices = {name: "one" if one_device else name for name in names}
    pool = Neighbours(names, {}, devices, 0.0)
    return Scorer(pool, GREEDY, texts(), profile(**TIMES_US), {"small": agreeing(0.6, 1)})


def test_a_cheap_mask_that_agrees_pays_and_one_that_does_not_agree_does_not() -> None:
    made = scorer()
    without = made.without()
    assert without.chain == ("small", "target")
    cheap = profile(**{SLIM: 600.0})
    good, bad = made.score(cheap, agreeing(0.97, 2)), made.score(cheap, agreeing(0.7, 2))
    assert good.predicted_us < without.predicted_us < bad.predicted_us
    assert SLIM in good.chain and SLIM in bad.chain
    assert good.agreement == pytest.approx(0.97, abs=0.01)
    assert good.cost == pytest.approx(0.3, abs=0.01)


def test_what_is_learned_of_one_mask_is_not_known_of_the_next() -> None:
    made = scorer()
    first = made.score(profile(**{SLIM: 600.0}), agreeing(0.9, 2))
    made.score(profile(**{SLIM: 1500.0}), agreeing(0.5, 3))
    assert made.score(profile(**{SLIM: 600.0}), agreeing(0.9, 2)) == first
    assert SLIM not in made.without().chain


def test_break_even_is_where_the_chains_are_equally_fast() -> None:
    made, without_us = scorer(), scorer().without().predicted_us
    found = made.break_even(profile(**{SLIM: 600.0}), agreeing(0.9, 2))
    assert found is not None and 0.8 < found < 0.97
    for share, pays in ((found - 0.05, False), (found + 0.05, True)):
        score = made.score(profile(**{SLIM: 600.0}), agreeing(share, 2))
        assert (score.predicted_us < without_us) is pays
    dearer = made.break_even(profile(**{SLIM: 1000.0}), agreeing(0.9, 2))
    assert dearer is not None and dearer > found
    assert made.break_even(profile(**{SLIM: 2100.0}), agreeing(0.9, 2)) is None


def test_the_slim_member_is_where_the_target_is() -> None:
    apart = scorer(one_device=False)
    score = apart.score(profile(**{SLIM: 600.0}), agreeing(0.97, 2))
    assert apart._devices[SLIM] == "target"
    assert score.chain[-2:] == (SLIM, "target")
