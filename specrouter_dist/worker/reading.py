"""Members read what others have written, in spare time: full information for the router.

What a member would have drawn at each position of a served text, and its laws at some of them, is
one forward over the text, without drafting anything (DESIGN: section 8). Only when no step is
waiting, here or in another worker that wants the same CPUs, and for at most one per cent of the
worker's time.
"""

import logging
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specrouter_dist.engine.interface import Extension
from specrouter_dist.errors import SpecRouterError
from specrouter_dist.links.control import Settled
from specrouter_dist.routing.observations import (
    ForwardKey,
    LawReading,
    Observations,
    Reading,
    context_of,
)
from specrouter_dist.routing.similarity import SparseRows, sampled_positions
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.worker.model_host import ModelHost

logger = logging.getLogger(__name__)

MAX_TOKENS = 1024
"""Longest text that is read, prompt included."""
_SHARE = 0.01
"""Of the worker's time."""
_FIRST_CREDIT_S, _MOST_CREDIT_S = 0.25, 0.05
"""Time not spent on reading that may be spent later: what a worker begins with, and what it can
earn. More would slow down who comes back after a pause."""
_CHUNK_TOKENS = 16
"""Fed at once: work that comes meanwhile waits no longer."""
_PROBED_ROWS = 5
_PROBED_DRAFTS = 3
"""Sizes of the steps by which a member that is not in use shows how fast it is now."""
_LEAST_WAIT_S = 0.001
_LOOK_AGAIN_S, _MOST_PATIENCE_S = 0.1, 3.0
"""While others want all CPUs: until the next look, and how long no text is read at most."""
_MOST_TEXTS = 4
"""Waiting to be read; others are not read."""
_TARGET_EVERY = 4
"""Of so many texts the target reads one: only for its laws, and it is slow."""


@dataclass(slots=True)
class _Open:
    """A text that a member is reading."""

    text: Settled
    model: ModelHost
    slot: int
    start: int
    sampled: range
    """Which of the picks the member's laws are wanted of."""
    picks: TokenArray
    rows: list[SparseRows]


class Readers:
    """What the models of a worker are to read.

    Args:
        models: all; the target's picks are the text, only its laws are read.
        clock: seconds.
        are_cpus_taken: whether others want all CPUs just now.
    """

    def __init__(
        self,
        models: Sequence[ModelHost],
        clock: Callable[[], float],
        are_cpus_taken: Callable[[], bool] = lambda: False,
    ) -> None:
        # The target is slow: the others do not wait for it.
        self._models = sorted(models, key=lambda model: model.is_target)
        self._clock = clock
        self._waiting: deque[tuple[Settled, ModelHost]] = deque()
        self._open: _Open | None = None
        self._num_texts = 0
        self._are_cpus_taken = are_cpus_taken
        self._credit_s = _FIRST_CREDIT_S
        self._at_s = clock()
        self._last_read_s = self._at_s
        self._looks_again_s = self._at_s

    def add(self, text: Settled) -> None:
        """The text is to be read by every model, unless too many are waiting."""
        if len(self._waiting) >= _MOST_TEXTS * len(self._models):
            return
        is_targets = self._num_texts % _TARGET_EVERY == 0
        self._num_texts += 1
        readers = (model for model in self._models if is_targets or not model.is_target)
        self._waiting.extend((text, model) for model in readers)

    def give_way(self) -> bool:
        """Gives up the text that is being read in the target's cache, for the room that it takes;
        whether there was one."""
        opened = self._open
        if opened is None or not (opened.model.is_target or opened.model.lives_in):
            return False
        self._drop(opened)
        return True

    def stop(self) -> None:
        """Reads nothing more, and frees what the text that is being read takes."""
        self._waiting.clear()
        if self._open is not None:
            self._drop(self._open)

    def _drop(self, opened: _Open) -> None:
        opened.model.engine.close(opened.slot)
        self._open = None

    def idle_s(self) -> float | None:
        """How long until there is something to do; None: until a text comes."""
        if self._open is not None:
            return 0.0
        if not self._waiting:
            return None
        debt_s = -self._earn()
        looks_again_s = max(0.0, self._looks_again_s - self._at_s)
        return looks_again_s if debt_s <= 0 else debt_s / _SHARE + _LEAST_WAIT_S

    def advance(self, observations: Observations) -> bool:
        """One forward, if something may be read now; whether there was one."""
        if self._open is None and not self._next():
            return False
        opened, began_s = self._open, self._clock()
        assert opened is not None
        if self._read(opened):
            self._open = None
            if not opened.model.is_target:
                _time(opened, observations)
            opened.model.engine.close(opened.slot)
            _report(opened, observations)
        self._credit_s -= self._clock() - began_s
        return True

    def _earn(self) -> float:
        now_s = self._clock()
        earned_s = _SHARE * max(0.0, now_s - self._at_s)
        self._at_s = now_s
        if self._credit_s < _MOST_CREDIT_S:
            self._credit_s = min(_MOST_CREDIT_S, self._credit_s + earned_s)
        return self._credit_s

    def _next(self) -> bool:
        """Opens the next text if there is time for it."""
        if not self._waiting or self._earn() < 0 or self._lets_others_first():
            return False
        self._last_read_s = self._at_s
        text, model = self._waiting.popleft()
        try:
            length = len(text.tokens) + _PROBED_DRAFTS
            slot = model.engine.open(text.sampling, text.prompt_tokens, length)
        except SpecRouterError as error:
            logger.info("%s does not read request %d: %s", model.name, text.request, error)
            return False
        # What comes behind the prompt is fed, since its picks are wanted.
        start = model.engine.reuse(slot, text.tokens[: text.prompt_tokens])
        sampled = sampled_positions(len(text.tokens) - text.prompt_tokens)
        self._open = _Open(text, model, slot, start, sampled, array(TOKEN_TYPECODE), [])
        return True

    def _lets_others_first(self) -> bool:
        """Only so long: who is never idle has to be learned of, too."""
        if self._at_s < self._looks_again_s:
            return True
        if self._at_s - self._last_read_s >= _MOST_PATIENCE_S or not self._are_cpus_taken():
            return False
        self._looks_again_s = self._at_s + _LOOK_AGAIN_S
        return True

    def _read(self, opened: _Open) -> bool:
        """Feeds the next chunk; whether it was the last. The last token predicts nothing."""
        text, start = opened.text, opened.start
        end = min(start + _CHUNK_TOKENS, len(text.tokens) - 1)
        num_picks = min(end - start, max(0, end - text.prompt_tokens + 1))
        first = len(opened.picks)
        sampled = tuple(i - first for i in opened.sampled if first <= i < first + num_picks)
        tokens = text.tokens[start:end]
        extension = Extension(opened.slot, start, tokens, num_picks, sparse_rows=sampled)
        # As many as its profile was taken with: the probes at the end are compared with that.
        opened.model.engine.set_threads(opened.model.threads.first)
        (picks,) = opened.model.engine.extend([extension])
        opened.picks.extend(picks.tokens)
        if picks.sparse_rows is not None:
            opened.rows.append(picks.sparse_rows)
        opened.start = end
        return end == len(text.tokens) - 1


def _report(opened: _Open, observations: Observations) -> None:
    text, name = opened.text, opened.model.name
    traffic = Traffic.of(text.sampling, text.task)
    if not opened.model.is_target:
        nothing = array(TOKEN_TYPECODE)
        reading = Reading(text.request, name, traffic, opened.picks, nothing)
        observations.readings.append(reading)
    rows = SparseRows.joined(opened.rows)
    observations.laws.append(LawReading(text.request, name, traffic, rows))


def _time(opened: _Open, observations: Observations) -> None:
    """A verify and a block, so that a member once found slow is known to have recovered."""
    tokens, engine, name = opened.text.tokens, opened.model.engine, opened.model.name
    for num_rows, num_drafts in ((_PROBED_ROWS, 0), (1, _PROBED_DRAFTS)):
        start = len(tokens) - num_rows
        if start < 0:
            continue
        num_picks = 1 if num_drafts else num_rows
        extension = Extension(opened.slot, start, tokens[start:], num_picks, num_drafts)
        began = time.perf_counter()
        engine.extend([extension])
        elapsed_us = (time.perf_counter() - began) * 1e6
        key = ForwardKey(name, num_rows, 1, num_drafts, context_tokens=context_of([start]))
        observations.add_forward(key, elapsed_us)
