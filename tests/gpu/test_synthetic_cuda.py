"""A synthetic pool on a CUDA device, in this process: the same texts as on the CPU. No Ray."""

from pathlib import Path

import pytest
import torch

from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from tests.pools import requests, short_start, write_synthetic_pool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CHAINS = [("target",), ("small", "target"), ("small", "medium", "target"), None]


def texts(directory: Path, device: str) -> list[list[list[int]]]:
    """Of every chain."""
    directory.mkdir()
    pool, report = open_pool(str(write_synthetic_pool(directory, device)), dtype=None)
    with short_start(), open_backend(pool, report, BackendName.LOCAL) as backend:
        return [
            [list(r.token_ids) for r in backend.generate(requests(chain, 0.8), concurrency=4)]
            for chain in CHAINS
        ]


def test_every_chain_prints_the_targets_text(tmp_path: Path) -> None:
    alone, *others = texts(tmp_path / "cuda", "cuda")
    assert others == [alone] * len(others)
    assert texts(tmp_path / "cpu", "cpu")[0] == alone
