"""Sentence models: which end of a prompt they see, and what is wrong with a directory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from specrouter_dist.align.embedding import sentence_vectors
from specrouter_dist.errors import ConfigError
from tests.task_prompts import TARGET, fit, mixed


def write_tokenizer(directory: Path, **settings: str) -> None:
    file = str(TARGET / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, **settings).save_pretrained(directory)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A random model like those of sentence-transformers."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4096,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model", pad_token="<|endoftext|>")
    return tmp_path / "model"


def test_a_prompt_is_what_stands_at_its_end(directory: Path) -> None:
    end, other = "def f(self): return 1\n" * 400, "something else " * 400
    long, unlike, alone = sentence_vectors([other + end, end + other, end], directory)
    np.testing.assert_allclose(long, alone, atol=1e-5)
    assert np.abs(unlike - alone).max() > 0.01


def test_padding_counts_for_nothing(directory: Path) -> None:
    alone = sentence_vectors(["a short one"], directory)
    beside = sentence_vectors(["a short one", "a longer one " * 20], directory)
    np.testing.assert_allclose(beside[0], alone[0], atol=1e-5)
    assert np.linalg.norm(beside, axis=1) == pytest.approx(1.0)


def test_tasks_are_made_of_its_vectors(directory: Path) -> None:
    found = fit(mixed(40), embedding=directory)
    assert found.model.header.num_prompts == 120


def test_what_is_wrong_with_a_directory_is_told(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--embedding: no model in .*none' that can be read"):
        sentence_vectors(["a"], tmp_path / "none")
    write_tokenizer(directory)
    with pytest.raises(ConfigError, match=r"--embedding: the tokenizer in .* has no pad token"):
        sentence_vectors(["a"], directory)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"--embedding: no model in .*model' .*: Error while"):
        sentence_vectors(["a"], directory)
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--embedding: no model in .*model' that can be read"):
        sentence_vectors(["a"], directory)
