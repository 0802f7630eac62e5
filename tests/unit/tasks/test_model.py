"""The file of a partition: what was written is read, and anything else is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from safetensors.torch import save as save_torch

from specrouter_dist.errors import ConfigError
from specrouter_dist.tasks.model import (
    FORMAT,
    Header,
    Task,
    TaskModel,
    read_model,
    vocabulary_hash,
    write_model,
)

HASH = vocabulary_hash({0: "a", 1: "b"})
HEADER = Header(
    vocabulary_hash=HASH,
    tasks=(Task(name="code", terms=("def",), share=0.75), Task(name="ruß", terms=(), share=0.25)),
    separators=(0,),
    temperature=1.5,
    least_probability=0.6,
    num_prompts=100,
)
MODEL = TaskModel(
    HEADER,
    weights=np.arange(16, dtype=np.float32).reshape(8, 2),
    bias=np.array([0.5, -0.5], np.float32),
    idf=np.ones(8, np.float32),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.safetensors"
    write_model(MODEL, path)
    return path


def test_what_was_written_is_read(file: Path) -> None:
    found = read_model(file, HASH)
    assert found.header == HEADER
    for name in ("weights", "bias", "idf"):
        np.testing.assert_array_equal(getattr(found, name), getattr(MODEL, name))
    assert list(file.parent.iterdir()) == [file]


def test_the_hash_is_of_ids_and_strings() -> None:
    assert vocabulary_hash({1: "b", 0: "a"}) == HASH
    assert vocabulary_hash({0: "b", 1: "a"}) != HASH


def test_another_tokenizers_partition_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="made with another tokenizer than the pool's target"):
        read_model(file, vocabulary_hash({0: "a"}))


def rewritten(file: Path, change: Callable[[dict[str, object]], object]) -> None:
    fields = json.loads(HEADER.model_dump_json())
    change(fields)
    arrays = load(file.read_bytes())
    file.write_bytes(save(arrays, metadata={FORMAT: json.dumps(fields)}))


def in_bfloat16(file: Path) -> None:
    arrays = {name: torch.from_numpy(own) for name, own in load(file.read_bytes()).items()}
    halved = {name: own.bfloat16() for name, own in arrays.items()}
    file.write_bytes(save_torch(halved, metadata={FORMAT: HEADER.model_dump_json()}))


def headed(file: Path, header: str) -> None:
    file.write_bytes(save(load(file.read_bytes()), metadata={FORMAT: header}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-40]), "cannot be read"),
        (lambda f: f.write_bytes(b"pickle" * 20), "cannot be read"),
        (lambda f: f.write_bytes(b""), "cannot be read"),
        (lambda f: f.write_bytes(save(load(f.read_bytes()))), "is no partition"),
        (lambda f: rewritten(f, lambda h: h.update(version=2)), "version: .*got 2"),
        (lambda f: rewritten(f, lambda h: h.pop("tasks")), "tasks: missing"),
        (lambda f: rewritten(f, lambda h: h["tasks"].pop()), "weights|bias"),
        (
            lambda f: rewritten(f, lambda h: h["tasks"][1].update(name="code")),
            r"these occur twice: \['code'\]",
        ),
        *(
            (
                lambda f, t=t: rewritten(f, lambda h: h.update(temperature=t)),
                "temperature: input should be",
            )
            for t in (1e-300, 1e300)
        ),
        (in_bfloat16, "is damaged: bias should be F16, got BF16"),
        (lambda f: headed(f, "[" * 100_000), "is no partition"),
        (lambda f: f.unlink(), "no file"),
    ],
)
def test_a_damaged_file_is_refused(
    file: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(file)
    with pytest.raises(ConfigError, match=message):
        read_model(file, HASH)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("weights", np.zeros((8, 3), np.float32)),
        ("bias", np.array([np.nan, 0.0], np.float32)),
        ("idf", np.ones(4, np.float32)),
        *((name, np.float32(1.0)) for name in ("weights", "bias", "idf")),
    ],
)
def test_arrays_that_cannot_be_are_refused(file: Path, name: str, array: object) -> None:
    write_model(replace(MODEL, **{name: array}), file)
    with pytest.raises(ConfigError, match="is damaged"):
        read_model(file, HASH)
