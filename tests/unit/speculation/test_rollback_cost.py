"""Invariant 4: a rollback is integers; no tensor or list is copied, moved or walked.

Not timed: bytecodes are counted and allocations measured, and both must be the same for a short
and a long session. ``benchmarks/rollback.py`` has the times.
"""

import sys
import tracemalloc
from array import array
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.messages import Truth
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.speculation.tokens import TokenBuffer
from tests.unit.speculation.handwritten import DOWN, EAGER, UP, new_stage

SHORT, LONG = 64, 4096
NUM_TAKEN_BACK = 8


def session(length: int) -> tuple[Stage, Truth]:
    """A middle stage of ``length`` tokens, and a Truth that takes back the last of them."""
    prompt = [i % 50 for i in range(length - NUM_TAKEN_BACK)]
    stage = new_stage(prompt, end=2 * length)
    stage.attach_upstream(UP, EAGER)
    stage.attach_downstream(Truth(DOWN, 1, 0, array("I", prompt), 2 * length), 2 * length)
    stage.tokens.append(range(NUM_TAKEN_BACK))
    stage.kv_len = length - 1
    return stage, Truth(DOWN, 2, len(prompt), array("I", [77]), 2 * length)


def count_bytecodes(action: Callable[[], object]) -> int:
    """How many bytecodes ``action`` executes."""
    num_executed = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal num_executed
        frame.f_trace_opcodes = True
        num_executed += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    action()
    sys.settrace(before)
    return num_executed


def count_bytes(action: Callable[[], object]) -> int:
    """Most bytes that ``action`` holds at any time, beyond those held before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before


def costs(length: int) -> tuple[int, int]:
    """Bytecodes and bytes of one rollback."""
    stage, truth = session(length)
    num_bytecodes = count_bytecodes(lambda: stage.on_truth(truth))
    assert (stage.kv_len, len(stage.tokens)) == (length - 8, length - 7)
    stage, truth = session(length)
    return num_bytecodes, count_bytes(lambda: stage.on_truth(truth))


def assert_cost_does_not_grow() -> None:
    costs(SHORT)  # The first run fills the interpreter's caches.
    short_bytecodes, short_bytes = costs(SHORT)
    long_bytecodes, long_bytes = costs(LONG)
    assert long_bytecodes == short_bytecodes
    assert abs(long_bytes - short_bytes) < 512


def test_a_rollback_costs_the_same_at_any_length() -> None:
    assert_cost_does_not_grow()


def test_storage_stays_where_it_is() -> None:
    tokens = TokenBuffer(range(100))
    storage, size = tokens._tokens, len(tokens._tokens)
    tokens.truncate(3)
    assert tokens._tokens is storage
    assert len(storage) == size


def copy_at_truncate(self: TokenBuffer, length: int) -> None:
    self._tokens = self._tokens[:length]
    self._length = length


def walk_at_truncate(self: TokenBuffer, length: int) -> None:
    self._length = sum(1 for _ in zip(range(length), self._tokens, strict=False))


@pytest.mark.parametrize("fault", [copy_at_truncate, walk_at_truncate])
def test_a_planted_copy_or_walk_is_found(
    fault: Callable[[TokenBuffer, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenBuffer, "truncate", fault)
    with pytest.raises(AssertionError):
        assert_cost_does_not_grow()


def test_the_lookup_member_pays_for_the_tokens_taken_back_only() -> None:
    def cost(length: int) -> int:
        tokens = array("I", [i * 7919 % 4999 for i in range(length)])
        stage = LookupStage(
            tokens, prompt_tokens=1, end=2 * length, min_match_tokens=2, max_match_tokens=8
        )
        stage.attach_downstream(Truth(DOWN, 1, 0, tokens, 2 * length), 2 * length)
        truth = Truth(DOWN, 2, length - NUM_TAKEN_BACK, array("I", [1]), 2 * length)
        return count_bytecodes(lambda: stage.on_truth(truth))

    assert cost(LONG) == cost(SHORT)
