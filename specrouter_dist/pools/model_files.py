"""What a model directory says about its model, read without loading the weights.

A directory is in Hugging Face format: config.json, tokenizer.json, and the weights in
safetensors files (one, or shards with an index) or in PyTorch's zip format. Shards may lie in other
directories: a drafter of which only the layers are its own names the file of another for the rest.
"""

import json
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrouter_dist.errors import ConfigError

_MAX_HEADER_BYTES = 100_000_000
_RELEVANT_SUFFIXES = (".json", ".jinja", ".safetensors", ".bin", ".model")
_SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes in a config.json that memory and context depend on."""

    model_type: str
    vocab_size: int
    """Rows of the head; may be padded beyond the tokenizer's ids."""
    context_tokens: int
    num_layers: int
    num_kv_heads: int
    head_dim: int

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Keys and values of one position in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor of a model is."""

    file: Path
    shape: tuple[int, ...]


def relevant_files(directory: Path) -> list[Path]:
    """The files that decide what the model computes and says, sorted by name; then those that its
    index names in other directories, as far as they are there.

    Raises:
        ConfigError: an index that is none.
    """
    own = sorted(p for p in directory.iterdir() if p.suffix in _RELEVANT_SUFFIXES)
    index = directory / INDEX
    shards = sorted(set(_read_weight_map(index).values())) if index.exists() else []
    shared = (directory / name for name in shards if "/" in name)
    return [*own, *(path for path in shared if path.exists())]


def read_json(path: Path, field: str | None = None) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        path: of the file.
        field: that names it, for the error.

    Raises:
        ConfigError: it is missing, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; a model directory holds one", field=field) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise ConfigError(f"{path}: no valid JSON ({problem})", field=field) from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(f"{path}: must hold a JSON object, got {kind}", field=field)
    return content


def read_shape(directory: Path) -> ModelShape:
    """The model's sizes from its config.json."""
    path = directory / "config.json"
    config = read_json(path)
    num_heads = read_positive(config, "num_attention_heads", path)
    head_dim = config.get("head_dim") or read_positive(config, "hidden_size", path) // num_heads
    return ModelShape(
        model_type=str(config.get("model_type")),
        vocab_size=read_positive(config, "vocab_size", path),
        context_tokens=read_positive(config, "max_position_embeddings", path),
        num_layers=read_positive(config, "num_hidden_layers", path),
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
    )


def read_eos_ids(directory: Path) -> frozenset[int]:
    """Ids that end a text: those of generation_config.json and of config.json together."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if name == "generation_config.json" and not path.exists():
            continue
        value = read_json(path).get("eos_token_id")
        found = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(i) is int and i >= 0 for i in found):
            raise ConfigError(f"{path}: eos_token_id: ids are integers >= 0, got {value!r}")
        ids.update(found)
    return frozenset(ids)


def count_parameters(directory: Path) -> int | None:
    """Number of weights, from the headers; None for PyTorch files, whose headers need torch.

    Raises:
        ConfigError: a weight file is missing, truncated or no weight file.
    """
    files = weight_files(directory)
    if files[0].suffix == ".bin":
        for path in files:
            if not zipfile.is_zipfile(path):
                raise ConfigError(f"{path}: truncated or no PyTorch file; fetch it again")
        return None
    return sum(math.prod(tensor.shape) for tensor in read_tensors(directory).values())


def read_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors that a model is made of, by name, from the headers of its safetensors files.

    Shards may hold others as well: of each tensor the file counts that the index names.

    Raises:
        ConfigError: a weight file is missing, truncated or none, or the index names a file that
            lacks the tensor, or not the one that transformers would take it from.
    """
    files = weight_files(directory)
    if files[0].suffix == ".bin":
        raise ConfigError(f"{directory}: weights in safetensors are needed, got {files[0].name}")
    headers = {path: read_header(path) for path in files}
    if files == [directory / _SINGLE]:
        homes = dict.fromkeys(headers[files[0]], files[0])
    else:
        index = directory / INDEX
        homes = {name: directory / file for name, file in _read_weight_map(index).items()}
        for name, home in homes.items():
            _check_home(index, name, home, [path for path in files if name in headers[path]])
    return {
        name: StoredTensor(home, tuple(headers[home][name]["shape"]))
        for name, home in homes.items()
    }


def _check_home(index: Path, name: str, home: Path, holders: list[Path]) -> None:
    """``holders``: the files that hold the tensor, in the order of their names."""
    if home not in holders:
        raise ConfigError(f"{index}: tensor {name!r} is not in {home}, which it names")
    # It reads all of every file, in this order, and what comes later replaces what was there.
    if holders[-1] != home:
        raise ConfigError(
            f"{index}: tensor {name!r} is said to be in {home}, but transformers takes it from "
            f"{holders[-1]}, whose name comes later; rename one of the files"
        )


def _read_weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file, relative to the index's directory."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ConfigError(f"{index}: weight_map: must map tensors to files, got {found!r:.80}")
    # It would name another file, or none, where the directory is moved to.
    if absolute := sorted(name for name in set(found.values()) if Path(name).is_absolute()):
        raise ConfigError(
            f"{index}: weight_map: files are named relative to {index.parent}, got {absolute[0]!r}"
        )
    return found


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, in the order of their names.

    Raises:
        ConfigError: there are none, or the index names one that is missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single = directory / f"{stem}.{suffix}"
        index = directory / f"{stem}.{suffix}.index.json"
        if single.exists():
            return [single]
        if index.exists():
            names = sorted(set(_read_weight_map(index).values()))
            missing = [name for name in names if not (directory / name).exists()]
            if missing or not names:
                raise ConfigError(
                    f"{index}: names weight files that are missing: {', '.join(missing) or 'none'}"
                )
            return [directory / name for name in names]
    raise ConfigError(
        f"{directory}: no weight file; accepted: model.safetensors, or shards with "
        "model.safetensors.index.json"
    )


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """``shape`` and ``dtype`` of every tensor of a safetensors file, by name.

    Raises:
        ConfigError: the file has not the size that its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _MAX_HEADER_BYTES + 1
        if header_bytes > min(size, _MAX_HEADER_BYTES):
            raise ConfigError(f"{path}: truncated or no safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(header_bytes))
        except ValueError:
            raise ConfigError(f"{path}: its header is no JSON; fetch it again") from None
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    ends = (entry["data_offsets"][1] for entry in tensors.values())
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise ConfigError(
            f"{path}: has {size} bytes, its header says {expected}; it is truncated or damaged: "
            "fetch it again"
        )
    return tensors


def read_positive(config: dict[str, Any], field: str, path: Path) -> int:
    """A field of the JSON file ``path``; ``ConfigError``: it is no integer above 0."""
    value = config.get(field)
    if type(value) is not int or value < 1:
        raise ConfigError(f"{path}: {field}: an integer >= 1 is needed, got {value!r}", field=field)
    return value
