"""What a model writes after prompts, picks along texts, and holds likely there: in the engine that
serves it, many texts at a time.

Each text is a session with sampling parameters of its own, as a request is: its noise is that of
its seed, whatever stands beside it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from specrouter_dist.align.data import Example
from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.errors import NoRoomError
from specrouter_dist.routing.similarity import SparseRows
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

MOST_ROWS = 512
"""Tokens fed in one forward, but for the end of a text: logits are as many rows."""

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class TopK:
    """The most probable next tokens at some positions, and their log-probabilities: of 4,096 ids
    the 64 likeliest hold about 95 % of the mass at temperature 1."""

    ids: Ids
    log_probs: npt.NDArray[np.float16]

    @classmethod
    def of(cls, rows: SparseRows) -> TopK:
        """In as few bytes as will do."""
        ids = rows.ids.astype(np.min_scalar_type(max(rows.vocab_size - 1, 1 << 8)))
        return cls(ids, rows.logprobs.astype(np.float16))

    def __getitem__(self, positions: slice) -> TopK:
        return TopK(self.ids[positions], self.log_probs[positions])


@dataclass(frozen=True)
class Continuation:
    """New tokens and, for each, the law that it was drawn from, before temperature."""

    tokens: TokenArray
    top: TopK


@dataclass
class _Text:
    """A session that is being written."""

    slot: int
    sampling: SamplingParams
    prompt_length: int
    room: int
    tokens: TokenArray
    num_fed: int = 0
    rows: list[SparseRows] = field(default_factory=list)

    def next_step(self) -> Extension:
        fed = self.tokens[self.num_fed :]
        return Extension(self.slot, self.num_fed, fed, num_picks=1, sparse_rows=(0,))

    def take(self, picks: Picks) -> None:
        assert picks.sparse_rows is not None, "every step asks for a law"
        self.num_fed = len(self.tokens)
        self.tokens += picks.tokens
        self.rows.append(picks.sparse_rows)

    @property
    def has_ended(self) -> bool:
        return len(self.tokens) == self.room or self.tokens[-1] in self.sampling.stop_token_ids

    def continuation(self) -> Continuation:
        new = self.tokens[self.prompt_length :]
        return Continuation(new, TopK.of(SparseRows.joined(self.rows)))


def write(
    engine: Engine, prompts: Sequence[TokenArray], samplings: Sequence[SamplingParams]
) -> list[Continuation]:
    """Continues each prompt until a stop id, which is kept, ``max_tokens`` or the context's end.

    As many texts at a time as the engine has room for; as one ends, the next begins.

    Args:
        engine: of the model that writes.
        prompts: none empty, none that fills the context.
        samplings: one of each prompt; their laws are given before temperature.
    """
    waiting = deque(range(len(prompts)))
    running: dict[int, _Text] = {}
    found: dict[int, Continuation] = {}
    while waiting or running:
        num_rows = len(running)
        while waiting and num_rows < MOST_ROWS:
            try:
                text = _begin(engine, prompts[waiting[0]], samplings[waiting[0]])
            except NoRoomError:
                if not running:
                    raise
                break
            running[waiting.popleft()] = text
            num_rows += text.prompt_length
        steps = [text.next_step() for text in running.values()]
        for (index, text), picks in zip([*running.items()], engine.extend(steps), strict=True):
            text.take(picks)
            if text.has_ended:
                engine.close(text.slot)
                found[index] = running.pop(index).continuation()
    return [found[index] for index in range(len(prompts))]


def _begin(engine: Engine, prompt: TokenArray, sampling: SamplingParams) -> _Text:
    room = min(len(prompt) + sampling.max_tokens, engine.info.context_tokens)
    slot = engine.open(sampling, len(prompt), room)
    return _Text(slot, sampling, len(prompt), room, array(TOKEN_TYPECODE, prompt))


def picks_along(
    engine: Engine, texts: Sequence[Example], samplings: Sequence[SamplingParams]
) -> list[TokenArray]:
    """What the model would draw at each position of the texts' completions."""
    return [picks.tokens for picks in _read(engine, texts, samplings, with_laws=False)]


def laws_along(engine: Engine, texts: Sequence[Example]) -> list[TopK]:
    """What the model holds likely at each position of the texts' completions."""
    samplings = [SamplingParams(temperature=0.0)] * len(texts)
    read = _read(engine, texts, samplings, with_laws=True)
    return [TopK.of(picks.sparse_rows) for picks in read if picks.sparse_rows is not None]


def _read(
    engine: Engine,
    texts: Sequence[Example],
    samplings: Sequence[SamplingParams],
    *,
    with_laws: bool,
) -> Iterator[Picks]:
    waiting = deque(zip(texts, samplings, strict=True))
    while waiting:
        batch: list[Extension] = []
        num_rows = 0
        while waiting and num_rows < MOST_ROWS:
            text, sampling = waiting[0]
            try:
                slot = engine.open(sampling, text.prompt_length, len(text.tokens))
            except NoRoomError:
                if not batch:
                    raise
                break
            waiting.popleft()
            fed, num_picks = array(TOKEN_TYPECODE, text.tokens[:-1]), len(text.completion)
            laws = tuple(range(num_picks)) if with_laws else ()
            batch.append(Extension(slot, 0, fed, num_picks, sparse_rows=laws))
            num_rows += len(fed)
        yield from engine.extend(batch)
        for extension in batch:
            engine.close(extension.slot)
