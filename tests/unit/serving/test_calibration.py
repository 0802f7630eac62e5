"""Which chains a pool that has just started is asked for."""

import pytest

from specrouter_dist.cli.session import open_pool
from specrouter_dist.serving.calibration import pair_chains

TASKS = ("translate-russian", "answer-question", "def-self", "python-mod", "none-init")


def test_every_pair_of_members_of_different_sizes_is_tried() -> None:
    assert list(pair_chains(*open_pool("tiny", dtype=None))) == [
        ("target",),
        ("lookup", "small", "target"),
        ("lookup", "medium", "target"),
        ("lookup", "target"),
        ("small", "medium", "target"),
        ("small", "target"),
        ("medium", "target"),
    ]


def test_drafters_of_one_size_do_not_draft_for_each_other() -> None:
    chains = set(pair_chains(*open_pool("tiny-tasks", dtype=None)))
    drafters = ["small", *(f"small-{task}" for task in TASKS)]
    assert {(drafter, "target") for drafter in [*drafters, "lookup", "medium"]} <= chains
    assert {("lookup", drafter, "target") for drafter in drafters} <= chains
    assert not [chain for chain in chains if {*chain[:2]} <= {*drafters}]


@pytest.mark.parametrize("pool", ["tiny", "tiny-tasks"])
def test_every_chain_ends_with_the_target_and_is_asked_for_once(pool: str) -> None:
    chains = list(pair_chains(*open_pool(pool, dtype=None)))
    assert len(chains) == len({*chains})
    assert all(chain[-1] == "target" for chain in chains)
