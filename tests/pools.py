"""The embedded pool as tests run it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.pools import with_target
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.serving import calibration
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.worker import profiling

CHAINS = [
    None,
    ("small", "target"),
    ("medium", "target"),
    ("small", "medium", "target"),
    ("lookup", "target"),
    ("lookup", "small", "medium", "target"),
]
"""None is the router's choice."""


def write_small_pool(directory: Path) -> Path:
    """The file of a pool that starts and runs fast: the embedded one's drafters."""
    roles = (("small", "drafter"), ("medium", "target"))
    members = [
        {"name": name, "kind": "model", "role": role, "model": str(POOLS_DIRECTORY / "tiny" / name)}
        for name, role in roles
    ]
    file = directory / "pool.yaml"
    file.write_text(yaml.safe_dump({"name": "drafters", "members": members}))
    return file


@contextmanager
def short_start() -> Iterator[None]:
    """A pool that is started in this process meanwhile measures little: where it is no matter
    which chain runs, and how fast."""
    (one, *_) = profiling._GRIDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "_GRIDS", (replace(one, warm_up=1, repeats=1),))
        patch.setattr(calibration, "_NUM_PROMPTS", 1)
        patch.setattr(calibration, "_MAX_TOKENS", 16)
        yield


def open_tiny(backend: str, dtype: Dtype | None = None) -> PoolBackend:
    """The pool ``tiny``, started and calibrated."""
    pool, report = open_pool("tiny", dtype=dtype)
    return open_backend(pool, report, BackendName(backend))


def open_slow_tiny(backend: str) -> PoolBackend:
    """The same with a target so slow that drafters pay on any machine, for few tokens too."""
    pool, report = open_pool("tiny", dtype=None)
    return open_backend(with_target(pool, engine="general"), report, BackendName(backend))


def prompts() -> list[TokenArray]:
    """Eight prompts, two per task."""
    file = POOLS_DIRECTORY / "prompts" / "calibration.jsonl"
    tokenizer = Tokenizer.load(POOLS_DIRECTORY / "tiny" / "target")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [tokenizer.encode(json.loads(line)["prompt"]) for line in lines]


def requests(
    chain: Sequence[str] | None, temperature: float, max_tokens: int = 32
) -> list[GenerateRequest]:
    """One request per prompt, each with a seed of its own."""
    return [
        GenerateRequest(
            ids,
            SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed),
            None if chain is None else tuple(chain),
        )
        for seed, ids in enumerate(prompts())
    ]


AGREEMENTS = {("small", "medium"): 0.65, ("small", "target"): 0.6, ("medium", "target"): 0.8}
"""Of the pool of :func:`write_synthetic_pool`."""


def write_synthetic_pool(directory: Path, device: str = "cpu") -> Path:
    """The file of a pool whose three members have the smallest shape, and agree as stated."""
    members = [
        {
            "name": name,
            "kind": "model",
            "role": "target" if name == "target" else "drafter",
            "engine": "synthetic",
            "model": "mini-1m",
            "device": device,
            "num_gpus": 0.1 if device == "cuda" else 0.0,
        }
        for name in ("small", "medium", "target")
    ]
    agreements = [
        {"draft": draft, "verifier": verifier, "agreement": agreement}
        for (draft, verifier), agreement in AGREEMENTS.items()
    ]
    content = {"name": "drawn", "synthetic": {"agreements": agreements}, "members": members}
    file = directory / "synthetic.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


SLIM_AGREEMENTS = AGREEMENTS | {("slim", "target"): 0.9}
"""Of the pool of :func:`write_slim_synthetic_pool`."""


def write_slim_synthetic_pool(directory: Path) -> Path:
    """The same with a slim member of a target that has layers to leave out."""
    file = write_synthetic_pool(directory)
    content = yaml.safe_load(file.read_text())
    *_, target = content["members"]
    target["model"] = "mini-6m"
    slim = {"name": "slim", "kind": "layer_skip", "of": "target", "mask": ["1.mlp", "2.attention"]}
    content["members"].append(slim)
    stated = {"draft": "slim", "verifier": "target", "agreement": SLIM_AGREEMENTS["slim", "target"]}
    content["synthetic"]["agreements"].append(stated)
    file.write_text(yaml.safe_dump(content))
    return file
