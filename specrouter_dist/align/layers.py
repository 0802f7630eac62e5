"""Drafters of which the layers alone are trained: embedding and head stay the base's.

They are written as shards: what is trained in a file of their own, and an index that names the
base's files for the rest, so that a drafter takes no more disk than what is its own.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from specrouter_dist.align.students import copy_tokenizer, replacing
from specrouter_dist.pools.model_files import INDEX, read_tensors

LAYERS = "layers.safetensors"
"""After any path that begins with '..': of a tensor that is in several files transformers takes the
one in the last of them."""


def freeze_ends(model: LlamaForCausalLM) -> None:
    """Leaves the layers and the last norm to be trained."""
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        end.requires_grad_(False)


def save_layers(model: LlamaForCausalLM, base: Path, tokenizer_from: Path, folder: Path) -> None:
    """Writes what is trained of ``model`` in bfloat16; ``folder`` is replaced as a whole.

    The base's files are named relative to it: both can be moved together.

    Args:
        model: the base drafter with other layers.
        base: its directory.
        tokenizer_from: directory whose tokenizer lies beside the weights.
        folder: of the drafter.

    Raises:
        ConfigError: the base's weights are not in safetensors.
    """
    place = folder.parent.resolve() / folder.name
    shared = {
        # Of a file the directory alone: those of a hub's cache are links to files without a suffix.
        name: os.path.relpath(tensor.file.parent.resolve() / tensor.file.name, place)
        for name, tensor in read_tensors(base).items()
    }
    own = {n: p.detach().bfloat16() for n, p in model.named_parameters() if p.requires_grad}
    index = {
        "metadata": {"total_parameters": model.num_parameters()},
        "weight_map": shared | dict.fromkeys(own, LAYERS),
    }
    with replacing(folder) as fresh:
        save_file(own, fresh / LAYERS, metadata={"format": "pt"})
        (fresh / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(base / "config.json", fresh / "config.json")
        copy_tokenizer(tokenizer_from, fresh)
