"""Prompts of three kinds that nobody has labelled, and a partition of them."""

from collections.abc import Sequence
from functools import cache

from specrouter_dist.align.partition import Partition, PartitionConfig, fit_tasks
from specrouter_dist.align.prompts import Prompt
from specrouter_dist.pools.checks import read_vocabulary
from specrouter_dist.pools.loading import POOLS_DIRECTORY
from specrouter_dist.tasks.model import vocabulary_hash
from specrouter_dist.text.tokenizer import Tokenizer

TARGET = POOLS_DIRECTORY / "tiny" / "target"
_THINGS = ("apples", "pears", "books", "coins", "tickets", "chairs", "stamps", "shirts")
_WORDS = ("Save", "Delete", "Open", "Close", "Publish", "Rename", "Forbidden", "Next")


def texts(count: int) -> dict[str, list[str]]:
    """``count`` prompts of each kind, all different."""
    kinds: dict[str, list[str]] = {"maths": [], "code": [], "translate": []}
    for i in range(count):
        thing, word = _THINGS[i % 8], _WORDS[i // 8 % 8]
        kinds["maths"].append(
            f"Question: Tom has {i} {thing} and buys {i + 7} more. How many {thing} has he?\n"
            "Answer:"
        )
        kinds["code"].append(
            f'def get_{thing}_{i}(self, value):\n    """Return the {thing} of {word}."""\n'
        )
        kinds["translate"].append(f"Translate to German: {word} {i} {thing}\nGerman:")
    return kinds


def prompts(tokenizer: Tokenizer, found: Sequence[str]) -> list[Prompt]:
    return [Prompt(text, tokenizer.encode(text)) for text in found]


def mixed(count: int) -> list[str]:
    """``count`` prompts of each kind, one of each in turn."""
    return [text for group in zip(*texts(count).values(), strict=True) for text in group]


@cache
def partition() -> Partition:
    """Of 40 prompts of each kind."""
    return fit(mixed(40))


def fit(found: Sequence[str], **settings: object) -> Partition:
    """Of such prompts, for the embedded pool's tokenizer."""
    tokenizer = Tokenizer.load(TARGET)
    return fit_tasks(
        prompts(tokenizer, found),
        PartitionConfig.model_validate({"max_tasks": 3, **settings}),
        separators=sorted(tokenizer.special_ids),
        vocabulary_hash=vocabulary_hash(read_vocabulary(TARGET)),
    )
