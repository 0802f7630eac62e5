"""How many weights a model of the Llama family has, by its config.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrouter_dist.pools.model_files import read_json, read_positive


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """Sizes of the weights, and which there are."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """RMSNorm over each head of queries and keys (Qwen3)."""
    tied: bool
    """The head's weights are the embedding's."""

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of one position's keys and values in one layer, both together."""
        return 2 * self.num_kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """As transformers counts them: a tied head counts once."""
        hidden, wide = self.hidden_size, self.intermediate_size
        qkv = self.query_size + self.kv_size
        layer = hidden * (qkv + self.query_size + 3 * wide) + 2 * hidden
        layer += qkv * self.qkv_bias + hidden * self.out_bias
        layer += (2 * wide + hidden) * self.mlp_bias + 2 * self.head_dim * self.qk_norm
        embeddings = (1 if self.tied else 2) * self.vocab_size * hidden
        return self.num_layers * layer + embeddings + hidden

    def scale_bytes(self, num_ids: int) -> int:
        """Of a scale for each output of every linear layer and of the head."""
        outputs = self.query_size + self.kv_size + 2 * self.intermediate_size + 2 * self.hidden_size
        return 4 * (self.num_layers * outputs + num_ids)

    def quantised_bytes(
        self, num_ids: int, *, bytes_per_weight: int = 1, embedding_bytes: int = 2
    ) -> int:
        """What the weights take in 8 bits, where only ``num_ids`` of the vocabulary are kept.

        The embedding, of whose numbers each takes ``embedding_bytes``, is not rounded, so that a
        head that is tied to it is held apart.
        """
        embedding = num_ids * self.hidden_size
        layers = self.num_parameters - (2 - self.tied) * self.vocab_size * self.hidden_size
        rounded = (layers + embedding) * bytes_per_weight
        return rounded + embedding_bytes * embedding + self.scale_bytes(num_ids)


def read_sizes(directory: Path) -> LlamaSizes:
    """Those of a model directory.

    Raises:
        ConfigError: its config.json is missing, broken, or lacks a size.
    """
    path = directory / "config.json"
    return sizes_of(read_json(path), path)


def sizes_of(fields: dict[str, Any], path: Path) -> LlamaSizes:
    """Those of the config of the family that was read from ``path``.

    Raises:
        ConfigError: it lacks a size.
    """
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        read_positive(fields, field, path)
    kind = fields.get("model_type")
    bias = bool(fields.get("attention_bias", False))
    heads = read_positive(fields, "num_attention_heads", path)
    return LlamaSizes(
        vocab_size=fields["vocab_size"],
        hidden_size=fields["hidden_size"],
        intermediate_size=fields["intermediate_size"],
        num_layers=fields["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=fields.get("num_key_value_heads") or heads,
        head_dim=fields.get("head_dim") or fields["hidden_size"] // heads,
        # Qwen2 always has biases on queries, keys and values, and never on the output.
        qkv_bias=bias or kind == "qwen2",
        out_bias=bias and kind != "qwen2",
        mlp_bias=bool(fields.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tied=bool(fields.get("tie_word_embeddings", False)),
    )
