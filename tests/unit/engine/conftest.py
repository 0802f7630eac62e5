from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from specrouter_dist.config import Dtype
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.engine.interface import Engine
from tests.unit.engine.fast_models import only_eager
from tests.unit.engine.tiny_models import Load, TinyModel, save_model


@pytest.fixture(scope="module", params=["llama3_rope_gqa", "qwen3_qk_norm_tied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save_model(request.param, tmp_path_factory)


@pytest.fixture(params=[FastEngine, GeneralEngine])
def load(request: pytest.FixtureRequest, model: TinyModel) -> Load:
    def load_with(**changes: Any) -> Engine:
        options = {
            "dtype": Dtype.FP32,
            "device": "cpu",
            "context_tokens": None,
            "kv_tokens": 4096,
            "max_sessions": 6,
            "num_ids": None,
            "exact": True,
        }
        return request.param.load(model.directory, **(options | changes))

    return load_with


@pytest.fixture(scope="module", params=["compiled", "eager"])
def decoder(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which decoder models are loaded with on the CPU; both do the same."""
    with nullcontext() if request.param == "compiled" else only_eager():
        yield request.param
