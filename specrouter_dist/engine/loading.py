"""Reading weights from a Hugging Face directory, tensor by tensor, and what they will cost."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from specrouter_dist.config import Dtype, Quantization
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, pages_for
from specrouter_dist.engine.llama_shape import LlamaShape
from specrouter_dist.errors import ConfigError, EngineError
from specrouter_dist.pools.model_files import read_tensors

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16}


class Weights(Protocol):
    """Where a model's tensors come from."""

    def read(self, name: str, *shape: int) -> Tensor:
        """One tensor, of any floating dtype and on any device."""
        ...


class Checkpoint:
    """The tensors of a model directory, read one at a time and checked against the config."""

    def __init__(self, directory: Path) -> None:
        """Opens every weight file.

        Raises:
            ConfigError: a file is missing or unreadable, or has not what the index says; the
                message names it.
        """
        self._directory = directory
        self._tensors = read_tensors(directory)
        files = {tensor.file for tensor in self._tensors.values()}
        self._files: dict[Path, Any] = {path: _open(path) for path in files}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.clear()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str, *shape: int) -> Tensor:
        """One tensor, as stored.

        Raises:
            ConfigError: it is missing or has another shape; the message names file and tensor.
        """
        if name not in self._tensors:
            raise ConfigError(f"{self._directory}: tensor {name!r} is missing", field="model")
        path = self._tensors[name].file
        try:
            tensor: Tensor = self._files[path].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: tensor {name!r}: {error}", field="model") from error
        if tuple(tensor.shape) != shape:
            raise ConfigError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}, the config says {shape}",
                field="model",
            )
        if not tensor.is_floating_point():
            raise EngineError(f"{path}: tensor {name!r} has dtype {tensor.dtype}")
        return tensor


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", field="model") from error


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes a model will take, known before anything is allocated."""

    weight_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes

    def check_fits(self, device: torch.device) -> None:
        """Compares with the memory that is free now.

        Raises:
            ConfigError: more is asked than there is.
        """
        free = available_bytes(device)
        if self.total_bytes > free:
            raise ConfigError(
                f"kv_tokens: weights need {self.weight_bytes:,} bytes and the KV cache "
                f"{self.kv_bytes:,}, but only {free:,} are free on {device}",
                field="kv_tokens",
            )


def memory_plan(
    shape: LlamaShape,
    *,
    dtype: Dtype,
    kv_dtype: torch.dtype,
    quantization: Quantization | None,
    device: torch.device,
    is_compiled: bool,
    kv_tokens: int,
    num_ids: int | None,
) -> MemoryPlan:
    """What loading a model of ``shape`` will take.

    Embedding and head are kept apart even when tied: the head is packed for its kernel.
    ``is_compiled``: for the compiled decoder.
    """
    ids = num_ids or shape.vocab_size
    if quantization is None:
        num_weights = shape.num_parameters + shape.tied * ids * shape.hidden_size
        weight_bytes = num_weights * TORCH_DTYPES[dtype].itemsize
        if is_compiled and dtype is Dtype.BF16:
            weight_bytes += shape.scale_bytes(ids)
    else:
        # Beside torch's int8 for few rows there is bf16 for many.
        is_twice = quantization is Quantization.INT8 and device.type == "cpu" and not is_compiled
        weight_bytes = shape.quantised_bytes(
            ids,
            bytes_per_weight=3 if is_twice else 1,
            embedding_bytes=TORCH_DTYPES[dtype].itemsize if is_compiled else 2,
        )
    row = shape.num_layers * shape.kv_size * kv_dtype.itemsize
    return MemoryPlan(weight_bytes=weight_bytes, kv_bytes=kv_tokens * row)


def available_bytes(device: torch.device) -> int:
    """Memory that can be allocated now on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        # Page cache counts as free here, unlike in sysconf's figure.
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def checked_context(shape: LlamaShape, context_tokens: int | None, kv_tokens: int) -> int:
    """Longest sequence that model and cache allow; ``ConfigError``: more was asked for."""
    context = shape.max_positions if context_tokens is None else context_tokens
    if context > shape.max_positions:
        raise ConfigError(
            f"context_tokens: the model allows at most {shape.max_positions}, got {context}",
            field="context_tokens",
        )
    return min(context, pages_for(kv_tokens) * PAGE_TOKENS)


def checked_num_ids(shape: LlamaShape, num_ids: int | None) -> int:
    """How many ids may be drawn; ``ConfigError``: the model has fewer."""
    ids = shape.vocab_size if num_ids is None else num_ids
    if not 1 <= ids <= shape.vocab_size:
        raise ConfigError(
            f"num_ids: the model has {shape.vocab_size} ids, got {num_ids}", field="num_ids"
        )
    return ids
