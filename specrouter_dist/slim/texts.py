"""The target's own texts, along which masks are tried: in its KV cache, to be forked from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.engine.kv_cache import PAGE_TOKENS, pages_for
from specrouter_dist.speculation.messages import TokenArray

MOST_ROWS = 256
"""Fed in one forward: logits are as many rows of the whole vocabulary."""
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt, and what the target has written behind it."""

    slot: int
    """Of the target's session, which has been fed all tokens but the last."""
    sampling: SamplingParams
    prompt: TokenArray
    output: TokenArray

    @property
    def tokens(self) -> TokenArray:
        """All of it."""
        return self.prompt + self.output


def num_pages(prompt_tokens: int, max_tokens: int) -> int:
    """Pages of the KV cache that a text takes while masks are tried along it: its own, and what a
    fork writes from the prompt's last token on."""
    return 2 * pages_for(prompt_tokens + max_tokens) - (prompt_tokens - 1) // PAGE_TOKENS


def batches(items: Sequence[_Item], rows_of_each: int) -> Iterator[Sequence[_Item]]:
    """In order, so many at a time that a forward over them is not too large."""
    count = max(1, MOST_ROWS // rows_of_each)
    return (items[i : i + count] for i in range(0, len(items), count))


def write_texts(
    target: Engine, prompts: Sequence[TokenArray], samplings: Sequence[SamplingParams]
) -> list[Text]:
    """What the target alone writes, each with sampling parameters of its own.

    Raises:
        NoRoomError: slots or pages are used up.
    """
    slots = []
    for prompt, sampling in zip(prompts, samplings, strict=True):
        slot = target.open(sampling, len(prompt), len(prompt) + sampling.max_tokens)
        slots.append(slot)
        for start in range(0, len(prompt) - 1, MOST_ROWS):
            end = min(start + MOST_ROWS, len(prompt) - 1)
            target.extend([Extension(slot, start, prompt[start:end], 0)])
    texts: list[Text] = []
    for group in batches(list(zip(slots, samplings, prompts, strict=True)), 1):
        batch = [
            Extension(slot, len(prompt) - 1, prompt[-1:], 1, sampling.max_tokens - 1)
            for slot, sampling, prompt in group
        ]
        for (slot, sampling, prompt), picks in zip(group, target.extend(batch), strict=True):
            texts.append(Text(slot, sampling, prompt, picks.tokens))
    return texts


def close_texts(target: Engine, texts: Sequence[Text]) -> None:
    """Frees their sessions."""
    for text in texts:
        target.close(text.slot)
