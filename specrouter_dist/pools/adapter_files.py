"""LoRA adapters in PEFT's format: what a directory says, and whether it fits its base.

Read without torch. A directory holds ``adapter_config.json`` and ``adapter_model.safetensors``.
What is adapted is told by the tensors; of the configuration everything is refused that would make
an adapter compute something else than ``x -> W x + scale B A x``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.model_files import read_header, read_json, read_positive

WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"

FUSED: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The projections of a layer, by the linear layer of the fast engine that computes them at once."""

PROJECTIONS = tuple(name for names in FUSED.values() for name in names)

_TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(?P<layer>\d+)\.(?:self_attn\.(?=[qkvo]_)|mlp\.(?=[gud]))"
    rf"(?P<projection>{'|'.join(PROJECTIONS)})\.lora_(?P<side>[AB])\.weight"
)
_DTYPES = ("F32", "F16", "BF16")

_ACCEPTED: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_rslora": (False, True),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "target_parameters": (None,),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None, False),
    # The others (pissa, olora, corda, loftq) change the base's weights as well.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""By field; the first is what a file without it means."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter that fits its base."""

    rank: int
    scale: float
    """Of the product of its two matrices."""
    sizes: Mapping[str, tuple[int, int]]
    """Inputs and outputs of the base's projections."""
    tensors: tuple[Mapping[str, tuple[str, str]], ...]
    """By layer and adapted projection: the names of A ``[rank, inputs]`` and B
    ``[outputs, rank]``."""

    @property
    def num_parameters(self) -> int:
        """Of both matrices, over all layers."""
        return sum(
            self.rank * sum(self.sizes[projection])
            for layer in self.tensors
            for projection in layer
        )

    @property
    def num_held(self) -> int:
        """Elements in memory: of projections that are computed at once, the second matrices are the
        blocks of one."""
        num_held = 0
        for layer in self.tensors:
            for names in FUSED.values():
                rank = self.rank * sum(name in layer for name in names)
                num_held += rank * (self.sizes[names[0]][0] + sum(self.sizes[n][1] for n in names))
        return num_held


def read_adapter(directory: Path, base: Path) -> AdapterFiles:
    """What an adapter's directory holds, checked against the model in ``base``.

    Raises:
        ConfigError: it is no adapter, none of this base, or computes what is not supported here;
            names the file and the field or tensor.
    """
    for name in (_CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise ConfigError(
                f"{directory}: no {name}; an adapter is a directory with {_CONFIG} and {WEIGHTS}",
                field="adapter",
            )
    path = directory / _CONFIG
    config = read_json(path)
    _check_config(config, path)
    rank = read_positive(config, "r", path)
    num_layers, sizes = _read_sizes(base)
    tensors = _read_tensors(directory / WEIGHTS, rank, num_layers, sizes)
    return AdapterFiles(rank, _read_scale(config, rank, path), sizes, tensors)


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    if "peft_type" not in config:
        raise ConfigError(f"{path}: peft_type: missing; accepted: 'LORA'", field="peft_type")
    for field, accepted in _ACCEPTED.items():
        value = config.get(field, accepted[0])
        # 1 is no True here.
        if not any(type(value) is type(one) and value == one for one in accepted):
            shown = ", ".join(repr(one) for one in accepted)
            raise ConfigError(f"{path}: {field}: accepted: {shown}; got {value!r}", field=field)
    targets = config.get("target_modules")
    names = targets if isinstance(targets, list) else []
    unknown = sorted(n for n in map(str, names) if n.rsplit(".", 1)[-1] not in PROJECTIONS)
    if unknown:
        raise ConfigError(
            f"{path}: target_modules: accepted: {', '.join(PROJECTIONS)}; got {', '.join(unknown)}",
            field="target_modules",
        )


def _read_scale(config: Mapping[str, Any], rank: int, path: Path) -> float:
    alpha: Any = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise ConfigError(
            f"{path}: lora_alpha: a number above 0 is needed, got {alpha!r}", field="lora_alpha"
        )
    stabilised = config.get("use_rslora", False)
    return float(alpha / (rank**0.5 if stabilised else rank))


def _read_sizes(base: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """Number of layers, and inputs and outputs of their projections."""
    path = base / "config.json"
    config = read_json(path)
    hidden, wide, num_heads, num_layers = (
        read_positive(config, field, path)
        for field in (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_hidden_layers",
        )
    )
    head_dim = config.get("head_dim") or hidden // num_heads
    query, key = num_heads * head_dim, (config.get("num_key_value_heads") or num_heads) * head_dim
    return num_layers, {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }


def _read_tensors(
    path: Path, rank: int, num_layers: int, sizes: Mapping[str, tuple[int, int]]
) -> tuple[Mapping[str, tuple[str, str]], ...]:
    header = read_header(path)
    found: list[dict[str, tuple[str, str]]] = [{} for _ in range(num_layers)]
    for name, entry in header.items():
        match = _TENSOR.fullmatch(name)
        if match is None or int(match["layer"]) >= num_layers:
            raise ConfigError(
                f"{path}: tensor {name!r}: adapted can be {', '.join(PROJECTIONS)} of layers 0 to "
                f"{num_layers - 1} of the base",
                field="target_modules",
            )
        projection = match["projection"]
        inputs, outputs = sizes[projection]
        expected = [rank, inputs] if match["side"] == "A" else [outputs, rank]
        if entry["shape"] != expected or entry["dtype"] not in _DTYPES:
            raise ConfigError(
                f"{path}: tensor {name!r} is {entry['dtype']} {entry['shape']}; with r={rank} the "
                f"base needs {expected} in one of {', '.join(_DTYPES)}",
                field="adapter",
            )
        first, second = (name.replace(f"lora_{match['side']}", f"lora_{side}") for side in "AB")
        if first not in header or second not in header:
            raise ConfigError(f"{path}: tensor {name!r} without its other half", field="adapter")
        found[int(match["layer"])][projection] = (first, second)
    if not header:
        raise ConfigError(f"{path}: holds no tensors", field="adapter")
    return tuple(found)
