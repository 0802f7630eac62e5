"""What members pick along the target's texts: by themselves, and as parts of the target."""

from array import array
from collections.abc import Collection, Sequence

from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.engine.slim import SlimEngine
from specrouter_dist.slim.texts import MOST_ROWS, Text, batches
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

BLOCK_TOKENS = 8
"""So far a slim model is ahead of the target at most: about the length of planned blocks."""


def read(engine: Engine, texts: Sequence[Text]) -> list[TokenArray]:
    """What a member of its own picks at every position of each output."""
    found = []
    for text in texts:
        tokens, num_prompt = text.tokens, len(text.prompt)
        slot = engine.open(text.sampling, num_prompt, len(tokens))
        picks = array(TOKEN_TYPECODE)
        for start in range(0, len(tokens) - 1, MOST_ROWS):
            end = min(start + MOST_ROWS, len(tokens) - 1)
            num_picks = min(end - start, max(0, end - num_prompt + 1))
            (drawn,) = engine.extend([Extension(slot, start, tokens[start:end], num_picks)])
            picks += drawn.tokens
        engine.close(slot)
        found.append(picks)
    return found


def read_masked(
    target: FastEngine, mask: Collection[str], texts: Sequence[Text]
) -> list[TokenArray]:
    """What the target without the parts of ``mask`` picks, as in a chain: in front of each block
    of :data:`BLOCK_TOKENS` it reads the target's keys and values, in the block its own.

    A fork of every text is fed its blocks from the last to the first, so that what a block
    overwrites is of no use to those that follow. All texts' blocks of one number are one forward.
    """
    slim = SlimEngine(target, mask)
    slots = []
    for text in texts:
        slot = target.fork(text.slot, len(text.prompt) + len(text.output) - 1)
        slim.join(slot, text.sampling, len(text.prompt))
        slots.append(slot)
    found = [array(TOKEN_TYPECODE, text.output) for text in texts]
    most = max(len(text.output) for text in texts)
    for first in reversed(range(0, most, BLOCK_TOKENS)):
        reaching = [i for i, text in enumerate(texts) if len(text.output) > first]
        for group in batches(reaching, BLOCK_TOKENS):
            batch = [_block(slots[i], texts[i], first) for i in group]
            for i, picks in zip(group, slim.extend(batch), strict=True):
                found[i][first : first + BLOCK_TOKENS] = picks.tokens
    for slot in slots:
        slim.leave(slot)
        target.close(slot)
    return found


def _block(slot: int, text: Text, first: int) -> Extension:
    """The tokens after which the output's tokens from ``first`` on are picked."""
    start = len(text.prompt) - 1 + first
    end = min(start + BLOCK_TOKENS, len(text.prompt) + len(text.output) - 1)
    return Extension(slot, start, text.tokens[start:end], end - start)
