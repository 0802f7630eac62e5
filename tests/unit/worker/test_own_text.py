"""Stages of one chain that continue their own text: the same output, observed by edge."""

from collections.abc import Sequence

import pytest

from specrouter_dist.config import Plan
from specrouter_dist.routing.observations import Survival
from specrouter_dist.routing.replay import own_text_names
from tests.unit.worker.test_replan import Pool, plan

CHAIN = ("small", "medium", "target")


def matching(matches: Sequence[int], number: int = 0) -> Plan:
    """Of :data:`CHAIN`; by edge, from how many matching tokens on it is done."""
    made = plan(*CHAIN, length=4, number=number)
    edges = zip(made.edges, matches, strict=True)
    changed = (edge.model_copy(update={"match_tokens": match}) for edge, match in edges)
    return made.model_copy(update={"edges": tuple(changed)})


def pairs(pool: Pool) -> dict[tuple[str, str], Survival]:
    """Observed so far, by drafter and verifier."""
    return {(key.draft, key.verifier): seen for key, seen in pool.seen.pairs.items()}


@pytest.fixture(scope="module")
def alone() -> list[int]:
    return Pool().text()


@pytest.mark.parametrize("matches", [(0, 0), (1, 0), (0, 1), (1, 2), (2, 1)])
def test_rounds_are_observed_by_edge_and_the_text_stays(
    matches: tuple[int, int], alone: list[int]
) -> None:
    pool = Pool()
    pool.want(matching(matches))
    assert pool.text() == alone
    wanted = set()
    for draft, verifier, match in zip(CHAIN, CHAIN[1:], matches, strict=False):
        names = (draft, *own_text_names(draft, match)) if match else (draft,)
        wanted |= {(name, verifier) for name in names}
    assert set(pairs(pool)) == wanted


@pytest.mark.parametrize("match", [1, 2])
def test_a_middle_stages_rounds_are_all_observed(match: int) -> None:
    pool = Pool()
    pool.want(matching((match, 0)))
    pool.text()
    stage = pool.sessions["medium"].model_stage
    own, beside = (pairs(pool)[name, "medium"] for name in own_text_names("small", match))
    assert pairs(pool)["small", "medium"] == beside
    assert stage.own_counts.accepted and stage.own_counts.truncations, "some matches mislead"
    for seen, counts in ((own, stage.own_counts), (beside, stage.counts)):
        assert seen.is_plausible
        assert seen.num_blocks - seen.num_empty == counts.verify_rounds
        assert sum(seen.accepted) == counts.accepted
    assert own.num_empty == beside.num_blocks


def test_a_plan_with_other_matches_is_observed_as_such() -> None:
    pool = Pool()
    for number, match in enumerate((1, 2, 0)):
        pool.want(matching((match, 0), number))
        pool.run(6)
    drafts = {draft for draft, verifier in pairs(pool) if verifier == "medium"}
    assert drafts == {"small", *own_text_names("small", 1), *own_text_names("small", 2)}
