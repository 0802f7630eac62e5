"""Random models of the Llama family on disk, and what the fast engine computed on the way."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from specrouter_dist.config import Dtype
from specrouter_dist.engine import fast_loading, sampler
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.engine.sampler import Sampler

SMALL: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def small(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**(SMALL | changes))


def save(config: PretrainedConfig, directory: Path, **options: Any) -> Any:
    """Saves a random model whose norms and biases are not trivial; returns it, in float32."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name
        spread = 0.2 if parameter.dim() == 1 else 1.5 / parameter.shape[1] ** 0.5
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=spread)
    model.save_pretrained(directory, **options)
    return model.eval()


def load(directory: Path, **changes: Any) -> FastEngine:
    options: dict[str, Any] = {
        "dtype": Dtype.FP32,
        "device": "cpu",
        "context_tokens": None,
        "kv_tokens": 2048,
        "max_sessions": 8,
        "num_ids": None,
        "exact": True,
    }
    return FastEngine.load(directory, **(options | changes))


@contextmanager
def only_eager() -> Iterator[None]:
    """Models are loaded as where the compiled decoder is not there."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (fast_loading, sampler):
            patch.setattr(module, "find_library", lambda: None)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Forwards use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def text(vocab_size: int, num_tokens: int) -> "array[int]":
    return array("I", [(7 * i * i + 3 * i + 5) % vocab_size for i in range(num_tokens)])


class LogitLog:
    """The logits of every position of every slot, as the sampler saw them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], Tensor] = {}

    def record(self, logits: Tensor, batch: Sequence[Extension]) -> None:
        row = 0
        for extension in batch:
            stop = extension.start + len(extension.tokens)
            for position in range(stop - extension.num_picks, stop):
                self.rows[extension.slot, position] = logits[row].clone()
                row += 1

    def of(self, slot: int, num_tokens: int) -> Tensor:
        """``[num_tokens, vocab_size]``."""
        return torch.stack([self.rows[slot, position] for position in range(num_tokens)])


@contextmanager
def logged_logits() -> Iterator[LogitLog]:
    """Records the logits of every draw; the sampler works as ever."""
    log = LogitLog()
    draw = Sampler.draw

    def record_and_draw(self: Sampler, logits: Tensor, batch: Sequence[Extension]) -> list[Picks]:
        log.record(logits, batch)
        return draw(self, logits, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "draw", record_and_draw)
        # Not within one call of the decoder, where nobody sees them.
        patch.setattr(FastEngine, "_run", lambda *_: None)
        yield log
