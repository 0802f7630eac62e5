"""The embedded pool with its tasks: the task's drafter drafts, and the text is the target's."""

from collections.abc import Iterator

import pytest

from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.pools.loading import load_pool
from specrouter_dist.serving.backend import PoolBackend
from tests.pools import requests, short_start

pytestmark = pytest.mark.timeout(300)

MAX_TOKENS = 24


@pytest.fixture(scope="module")
def backend() -> Iterator[PoolBackend]:
    pool, report = open_pool("tiny-tasks", dtype=None)
    with short_start(), open_backend(pool, report, BackendName.LOCAL) as running:
        yield running


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_task_drafter_drafts_and_the_text_is_the_targets(
    backend: PoolBackend, temperature: float
) -> None:
    alone = list(backend.generate(requests(("target",), temperature, MAX_TOKENS), concurrency=8))
    names = [m.name for m in load_pool("tiny-tasks").config.models if m.name.startswith("small-")]
    assert len(names) >= 4
    for chain in (*((name, "target") for name in names), (names[0], "medium", "target"), None):
        asked = requests(chain, temperature, MAX_TOKENS)
        results = list(backend.generate(asked, concurrency=8))
        assert [r.token_ids for r in results] == [r.token_ids for r in alone], chain
        if chain is not None:
            levels = [level for result in results for level in result.metrics.levels]
            accepted = sum(level.accepted for level in levels if level.draft == chain[0])
            # What random weights would have accepted is hardly any.
            assert accepted > 0.1 * MAX_TOKENS * len(results), chain
    # Eight prompts of four kinds.
    assert len({result.metrics.task for result in alone}) >= 3
