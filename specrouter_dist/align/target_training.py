"""Training the target from text: its tokenizer, its first weights, cross-entropy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.align.config import TargetConfig
from specrouter_dist.align.data import END_OF_TEXT, Example, IntArray, Row, pack
from specrouter_dist.align.training import Progress, Trainer, TrainingTask

SPECIAL_TOKENS = (END_OF_TEXT, "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 4096
_DEV_ROWS = 64  # packed rows of one evaluation batch


def train_tokenizer(rows: Sequence[Row], folder: Path) -> None:
    """Write a byte-level BPE tokenizer with its chat template, as ``transformers`` expects them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((row.prompt + row.completion for row in rows), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": END_OF_TEXT, "pad_token": "<|pad|>", "backend": "tokenizers"}
    settings["tokenizer_class"] = "TokenizersBackend"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def new_target(config: TargetConfig, vocabulary: int) -> LlamaForCausalLM:
    """A target with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.width,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            head_dim=config.width // config.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    ).float()


def cross_entropy(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Mean next-token loss over packed rows, nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


@torch.inference_mode()
def dev_loss(model: LlamaForCausalLM, packed: Tensor) -> float:
    """Mean next-token loss over all rows of ``packed``."""
    losses = [
        (float(cross_entropy(model, rows)), len(rows))
        for rows in torch.split(packed, _DEV_ROWS)
        if len(rows)
    ]
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def packed_batches(packed: IntArray, rows: int, order: np.random.Generator) -> Iterator[Tensor]:
    """All packed rows once, in random order; the incomplete last batch is dropped."""
    shuffled = order.permutation(len(packed))
    for start in range(0, len(packed) - rows + 1, rows):
        yield torch.from_numpy(packed[shuffled[start : start + rows]])


def train_target(
    model: LlamaForCausalLM,
    config: TargetConfig,
    train: Sequence[Example],
    dev: Sequence[Example],
    folder: Path,
    seed: int,
) -> Progress:
    """Train ``model`` in place until its dev loss no longer falls, resuming from ``folder``.

    Examples are shuffled before they are packed, anew in every epoch.
    """
    length = config.sequence_length
    rows = max(1, config.optimizer.tokens_per_batch // length)
    held_out = torch.from_numpy(pack(dev, length))

    def batches(epoch: int) -> Iterator[Tensor]:
        order = np.random.default_rng((seed, epoch))
        packed = pack((train[i] for i in order.permutation(len(train))), length)
        return packed_batches(packed, rows, order)

    task = TrainingTask(
        batches=batches,
        loss=lambda tokens, share, step: (cross_entropy(model, tokens), tokens.numel()),
        score=lambda: -dev_loss(model, held_out),
    )
    return Trainer(model, task, config.optimizer, folder, "target").run(patience=config.patience)
