"""The embedded pool with its tasks, as the package ships it."""

import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from specrouter_dist.align.config import AlignmentConfig
from specrouter_dist.config import ModelMember
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import POOLS_DIRECTORY, Pool, load_pool, tasks_file
from specrouter_dist.pools.model_files import read_tensors
from specrouter_dist.pools.yaml_files import read_yaml
from specrouter_dist.serving.tasks import open_classifier
from specrouter_dist.validation import validated

FOLDER = POOLS_DIRECTORY / "tiny-tasks"
BASE = POOLS_DIRECTORY / "tiny" / "small" / "model.safetensors"
MOST_BYTES = 8 << 20


@pytest.fixture(scope="module")
def pool() -> Pool:
    return load_pool("tiny-tasks")


def task_drafters(pool: Pool) -> dict[str, Path]:
    return {name: path for name, path in pool.directories.items() if path.parent == FOLDER}


def shipped() -> set[Path]:
    """What a wheel takes of the pools, by pyproject.toml."""
    root = POOLS_DIRECTORY.parents[1]
    content = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = content["tool"]["setuptools"]["package-data"]["specrouter_dist"]
    found = (path for pattern in patterns for path in (root / "specrouter_dist").glob(pattern))
    return {path for path in found if path.is_file()}


def test_it_is_the_embedded_pool_with_drafters_for_tasks_that_were_found(pool: Pool) -> None:
    classifier = open_classifier(pool)
    assert classifier is not None
    drafters = task_drafters(pool)
    assert len(drafters) >= 4
    assert set(drafters) <= {f"small-{name}" for name in classifier.names}
    others = tuple(m for m in pool.config.members if m.name not in drafters)
    assert others == load_pool("tiny").config.members
    assert {path.name for path in drafters.values()} == {p.name for p in FOLDER.glob("*-layers")}


def test_its_drafters_are_small_with_other_layers(pool: Pool) -> None:
    report = check_pool(pool)
    base = load_file(BASE)
    for name, directory in task_drafters(pool).items():
        assert report.member(name).num_parameters == report.member("small").num_parameters
        tensors = read_tensors(directory)
        shared = {tensor for tensor, stored in tensors.items() if stored.file.samefile(BASE)}
        assert shared == {"model.embed_tokens.weight"}
        own = load_file(directory / "layers.safetensors")
        assert set(own) == set(base) - shared
        changed = [not own[tensor].equal(base[tensor]) for tensor in own if own[tensor].dim() == 2]
        assert all(changed)
        member = next(m for m in pool.config.models if m.name == name)
        assert isinstance(member, ModelMember) and member.quantization is None


def test_the_package_has_all_of_it_within_8_mib(pool: Pool) -> None:
    files = shipped()
    own = {path for path in files if FOLDER in path.parents} | {FOLDER.with_suffix(".yaml")}
    needed = {path for folder in task_drafters(pool).values() for path in folder.iterdir()}
    assert needed | {tasks_file(pool), BASE, pool.file} <= files
    assert 0 < sum(path.stat().st_size for path in own) <= MOST_BYTES


def test_the_settings_beside_it_are_of_its_form() -> None:
    fields = read_yaml(FOLDER / "settings.yaml")
    assert validated(AlignmentConfig, fields, error=ConfigError).form == "layers"
