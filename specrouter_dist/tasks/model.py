"""What is kept of a partition: one file of arrays and a header, without code in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from specrouter_dist.config import Finite, TokenId, UserModel
from specrouter_dist.errors import ConfigError
from specrouter_dist.tasks.features import FloatArray
from specrouter_dist.validation import validated

FORMAT = "specrouter-tasks"
_ARRAYS = ("bias", "idf", "weights")
_DTYPE = "F16"
"""Of all arrays in the file, as safetensors calls it; numpy does not know all that it has."""


class Task(UserModel):
    """A kind of prompt."""

    name: str = Field(pattern=r"^\w[\w-]*$", max_length=64)
    terms: tuple[str, ...]
    """The words that tell it from the others, the most telling first."""
    share: Finite = Field(gt=0.0, le=1.0)
    """Of the prompts that the partition was made of."""


class Header(UserModel):
    """What the arrays mean."""

    format: Literal["specrouter-tasks"] = "specrouter-tasks"
    version: Literal[1] = 1
    vocabulary_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the tokenizer whose ids the classifier reads; see :func:`vocabulary_hash`."""
    tasks: tuple[Task, ...] = Field(min_length=1, max_length=32)
    separators: tuple[TokenId, ...]
    """Special tokens: they part the turns of a conversation."""
    temperature: Finite = Field(ge=0.01, le=100.0)
    """Of the posterior, so that it is right about as often as it says. Far beyond what fitting
    finds all posteriors are alike, or no numbers."""
    least_probability: Finite = Field(ge=0.0, le=1.0)
    """A prompt whose likeliest task is less likely belongs to none."""
    num_prompts: Annotated[int, Field(ge=1)]
    """That the partition was made of."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [task.name for task in self.tasks]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tasks: names must differ, these occur twice: {doubled}")
        return self


@dataclass(frozen=True, slots=True)
class TaskModel:
    """A partition as it is written."""

    header: Header
    weights: FloatArray
    """Shape [num_buckets, num_tasks]; a prompt's scores are its features times these plus bias."""
    bias: FloatArray
    idf: FloatArray
    """Shape [num_buckets]."""


def vocabulary_hash(vocabulary: Mapping[int, str]) -> str:
    """Equal for two tokenizers exactly when their ids stand for the same strings."""
    content = json.dumps(sorted(vocabulary.items()), ensure_ascii=False)
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def write_model(model: TaskModel, path: Path) -> None:
    """The file appears whole or not at all."""
    from safetensors.numpy import save

    partial = path.with_name(path.name + ".partial")
    arrays = {name: np.asarray(getattr(model, name), np.float16) for name in _ARRAYS}
    partial.write_bytes(save(arrays, metadata={FORMAT: model.header.model_dump_json()}))
    partial.replace(path)


def read_model(path: Path, wanted_hash: str) -> TaskModel:
    """The partition in ``path``, made for the tokenizer with that hash.

    Raises:
        ConfigError: no such file, a damaged one, or one of another tokenizer or version.
    """
    if not path.is_file():
        raise ConfigError(f"tasks: no file {str(path)!r}", field="tasks")
    arrays, metadata = _read_arrays(path)
    try:
        fields = json.loads(metadata[FORMAT])
    except (KeyError, ValueError, RecursionError):
        raise ConfigError(
            f"tasks: {str(path)!r} is no partition; 'specrouter tasks fit' writes one",
            field="tasks",
        ) from None
    header = validated(Header, fields, error=ConfigError, where=f"tasks: {path}")
    if header.vocabulary_hash != wanted_hash:
        raise ConfigError(
            f"tasks: {str(path)!r} was made with another tokenizer than the pool's target has; "
            "make it again with 'specrouter tasks fit'",
            field="tasks",
        )
    model = TaskModel(header, **arrays)
    _check_arrays(model, path)
    return model


def _read_arrays(path: Path) -> tuple[dict[str, FloatArray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            for name in _ARRAYS:
                if (dtype := file.get_slice(name).get_dtype()) != _DTYPE:
                    raise ConfigError(
                        f"tasks: {str(path)!r} is damaged: {name} should be {_DTYPE}, got {dtype}",
                        field="tasks",
                    )
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in _ARRAYS}
            return arrays, dict(file.metadata() or {})
    except (SafetensorError, OSError) as problem:
        raise ConfigError(
            f"tasks: {str(path)!r} cannot be read: {problem}", field="tasks"
        ) from None


def _check_arrays(model: TaskModel, path: Path) -> None:
    num_tasks, num_buckets = len(model.header.tasks), model.idf.size
    shapes = {
        "idf": (num_buckets,),
        "bias": (num_tasks,),
        "weights": (num_buckets, num_tasks),
    }
    for name, shape in shapes.items():
        array: FloatArray = getattr(model, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise ConfigError(
                f"tasks: {str(path)!r} is damaged: {name} should be finite numbers of shape "
                f"{list(shape)}",
                field="tasks",
            )
    if num_buckets < 2 or num_buckets & (num_buckets - 1):
        raise ConfigError(
            f"tasks: {str(path)!r} is damaged: {num_buckets} buckets are no power of two",
            field="tasks",
        )
