"""What tests of aligning share."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from specrouter_dist.align.data import encode_prompts
from specrouter_dist.align.students import save_member
from tests.unit.align.models import rows, tiny_target, tokenizer_folder


@pytest.fixture
def members(tmp_path: Path) -> dict[str, Path]:
    """A target and a drafter that is another random model."""
    tokenizer = tokenizer_folder(tmp_path / "tokenizer")
    num_ids = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    for seed, name in enumerate(("target", "base")):
        save_member(tiny_target(num_ids, seed), tokenizer, tmp_path / name)
    return {name: tmp_path / name for name in ("target", "base")}


@pytest.fixture
def prompts(members: dict[str, Path]) -> dict[str, list[list[int]]]:
    tokenizer = Tokenizer.from_file(str(members["target"] / "tokenizer.json"))
    encoded = encode_prompts(tokenizer, rows("train", 40), chat_fraction=0.0)
    return {"code": encoded[::2], "math": encoded[1::2]}
