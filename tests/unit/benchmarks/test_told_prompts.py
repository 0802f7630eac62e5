"""Which drafter is a task's, in what is measured."""

from pathlib import Path

import numpy as np
import yaml

from benchmarks.task_agreement import Models
from benchmarks.told_prompts import task_drafters
from specrouter_dist.align.data import Example
from specrouter_dist.align.generation import laws_along
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import POOLS_DIRECTORY, load_pool
from specrouter_dist.tasks.model import write_model
from tests.adapters import write_adapter
from tests.task_prompts import TARGET, partition

BASE = POOLS_DIRECTORY / "tiny" / "small"


def test_the_drafters_of_tasks_are_found_in_the_form_that_is_shipped() -> None:
    found = task_drafters(load_pool("tiny-tasks"))
    assert len(found) >= 4
    assert all(name == f"small-{task}" for task, name in found.items())


def test_adapters_are_drafters_of_tasks_and_are_compared_with_their_base(tmp_path: Path) -> None:
    model = partition().model
    task = model.header.tasks[0].name
    write_model(model, tmp_path / "tasks.safetensors")
    control = write_adapter(tmp_path / "pooled-lora", BASE, seed=1, task_type="CAUSAL_LM")
    write_adapter(tmp_path / f"{task}-lora", BASE, task_type="CAUSAL_LM")
    members = [
        {"name": "small", "kind": "model", "role": "drafter", "model": str(BASE)},
        {"name": "own", "kind": "lora", "of": "small", "adapter": f"{task}-lora"},
        {"name": "target", "kind": "model", "role": "target", "model": str(TARGET)},
    ]
    content = {"name": "aligned", "tasks": "tasks.safetensors", "members": members}
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(content))
    pool = load_pool(str(tmp_path / "pool.yaml"))
    assert task_drafters(pool) == {task: "own"}
    text = Example("any", tuple(range(5, 25)), 1)
    base, own, other = (
        laws_along(drafter, [text])[0].log_probs
        for drafter in Models.load(pool, check_pool(pool), "small", control).drafters(task).values()
    )
    assert not np.array_equal(base, own)
    assert not np.array_equal(base, other)
    assert not np.array_equal(own, other)
