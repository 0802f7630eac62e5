"""Reading an adapter's matrices: scaled, fused as the base's linear layers are, laid out once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from specrouter_dist.engine.decoder import Decoder
from specrouter_dist.engine.llama_shape import paired_order
from specrouter_dist.engine.lora import Adapter, LowRank
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.adapter_files import FUSED, WEIGHTS, AdapterFiles, read_adapter


def load_adapter(name: str, directory: Path, base: Path, decoder: Decoder) -> Adapter:
    """
    Args:
        name: of the member.
        directory: the adapter, in PEFT's format.
        base: the directory of the model that ``decoder`` holds.
        decoder: which linear layers are adapted.

    Raises:
        ConfigError: a file is missing or broken, or the adapter does not fit the base.
    """
    files = read_adapter(directory, base)
    device = decoder.cache.device
    # On the CPU one to four rows through both matrices take 9 to 11 us in float32, 37 in bfloat16.
    dtype = torch.float32 if device.type == "cpu" else decoder.layer_dtype
    orders = {"qkv": paired_order(decoder.shape)}
    path = directory / WEIGHTS
    layers: list[Mapping[str, LowRank]] = []
    try:
        with safe_open(path, framework="pt") as tensors:
            for names in files.tensors:
                terms = {
                    part: _read_term(tensors, files, part, names, orders.get(part))
                    for part in FUSED
                    if not names.keys().isdisjoint(FUSED[part])
                }
                layers.append(
                    {
                        part: LowRank(down.to(device, dtype), up.to(device, dtype))
                        for part, (down, up) in terms.items()
                    }
                )
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", field="adapter") from error
    return Adapter(name, files.num_parameters, layers)


def _read_term(
    tensors: Any,
    files: AdapterFiles,
    part: str,
    names: Mapping[str, tuple[str, str]],
    order: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The matrices of one fused layer: the first ones side by side, the second ones as blocks of
    one that is zero elsewhere."""
    projections = FUSED[part]
    adapted = [projection for projection in projections if projection in names]
    down = torch.cat([tensors.get_tensor(names[projection][0]).float() for projection in adapted])
    up = torch.zeros(sum(files.sizes[projection][1] for projection in projections), len(down))
    row = column = 0
    for projection in projections:
        num_rows = files.sizes[projection][1]
        if projection in names:
            block = up[row : row + num_rows, column : column + files.rank]
            block.copy_(tensors.get_tensor(names[projection][1])).mul_(files.scale)
            column += files.rank
        row += num_rows
    if order is not None:
        up = up[order]
    return down.t().contiguous(), up.t().contiguous()
