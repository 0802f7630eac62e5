"""Which drafter is a task's, in what is measured."""

from benchmarks.told_prompts import task_drafters
from specrouter_dist.pools.loading import load_pool


def test_the_drafters_of_tasks_are_found_in_the_form_that_is_shipped() -> None:
    found = task_drafters(load_pool("tiny-tasks"))
    assert len(found) >= 4
    assert all(name == f"small-{task}" for task, name in found.items())
