"""Tasks from a prompt to the router, with real tokens; the text does not depend on them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.tasks.model import write_model
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.worker.local import LocalPool
from tests.pools import short_start
from tests.task_prompts import TARGET, partition, texts

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolBackend]:
    file: Path = tmp_path_factory.mktemp("tasks") / "tasks.safetensors"
    write_model(partition().model, file)
    pool, report = open_pool("tiny", dtype=None)
    told = replace(pool, config=pool.config.model_copy(update={"tasks": str(file)}))
    with short_start(), PoolBackend(told, report, LocalPool(told, report)) as running:
        yield running


def test_answers_tell_their_task_and_the_router_learns_by_it(backend: PoolBackend) -> None:
    tokenizer = Tokenizer.load(TARGET)
    kinds = [texts(60)[kind][55] for kind in ("maths", "code", "translate")]
    sampling = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
    asked = [GenerateRequest(tokenizer.encode(text), sampling) for text in kinds]
    results = list(backend.generate(asked, concurrency=1))
    told = [result.metrics.task for result in results]
    assert sorted(told) == sorted(task.name for task in partition().model.header.tasks)
    alone = [replace(one, chain=("target",), task="stated by the client") for one in asked]
    for first, second in zip(results, backend.generate(alone, concurrency=1), strict=True):
        assert first.token_ids == second.token_ids
        assert second.metrics.task == "stated by the client"
    wanted, end = set(told), time.monotonic() + 30
    while not wanted <= known_tasks(backend) and time.monotonic() < end:
        time.sleep(0.2)
    assert wanted <= known_tasks(backend)


def known_tasks(backend: PoolBackend) -> set[str]:
    """That the router plans for, even where nothing is better than what all others have."""
    assert isinstance(backend.running, LocalPool)
    return {kind.task for kind in backend.running._router.kinds}
