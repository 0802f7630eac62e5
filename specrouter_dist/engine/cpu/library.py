"""The compiled decoder (decoder.cpp), as C structures and calls.

The package's build compiles it for the CPU that it runs on; where there was no compiler, or the CPU
is another one, torch's operations take its place and say so.
"""

import ctypes
import logging
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import lru_cache
from importlib.util import find_spec
from typing import ClassVar

from specrouter_dist.engine import decoder
from specrouter_dist.engine.kv_cache import PAGE_TOKENS
from specrouter_dist.errors import EngineError

_logger = logging.getLogger(__name__)

_MODULE = "specrouter_dist.engine.cpu._decoder"


_CALLS = 4
"""Raised when calls mean something else, here and in decoder.cpp."""
BLOCK_INS = 64
"""Inputs whose products are added in whole numbers."""


class Matrix(Structure):
    _fields_: ClassVar = [
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("scales", c_void_p),
        ("num_ins", c_int64),
        ("num_outs", c_int64),
        ("input_limit", c_float),
        ("weight_bytes", c_int32),
    ]


class LowRank(Structure):
    _fields_: ClassVar = [("down", Matrix), ("up", Matrix)]


class Adapter(Structure):
    _fields_: ClassVar = [(name, LowRank) for name in ("qkv", "out", "gate_up", "down")]


class Layer(Structure):
    _fields_: ClassVar = [
        ("attention_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("qkv", Matrix),
        ("out", Matrix),
        ("mlp_norm", c_void_p),
        ("gate_up", Matrix),
        ("down", Matrix),
    ]


class Model(Structure):
    _fields_: ClassVar = [
        ("num_layers", c_int64),
        ("hidden", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("intermediate", c_int64),
        ("is_bfloat16", c_int64),
        ("norm_eps", c_float),
        ("embedding", c_void_p),
        ("rotations", c_void_p),
        ("last_norm", c_void_p),
        ("head", Matrix),
        ("layers", POINTER(Layer)),
    ]


class Rows(Structure):
    """One session's."""

    _fields_: ClassVar = [
        ("first_row", c_int64),
        ("num_rows", c_int64),
        ("start", c_int64),
        ("pages", c_void_p),
        ("adapter", POINTER(Adapter)),
    ]


class Batch(Structure):
    _fields_: ClassVar = [
        ("num_rows", c_int64),
        ("num_parts", c_int64),
        ("ids", c_void_p),
        ("parts", POINTER(Rows)),
        ("cache", c_void_p),
        ("cache_rows", c_int64),
        ("hidden", c_void_p),
        ("scratch", c_void_p),
    ]


class Dice(Structure):
    _fields_: ClassVar = [("scale", c_float), ("has_noise", c_int32), ("seed", c_uint64)]


class Draws(Structure):
    _fields_: ClassVar = [
        ("num_picks", c_int64),
        ("num_drafts", c_int64),
        ("first_position", c_int64),
        ("dice", Dice),
        ("stop_ids", c_void_p),
        ("num_stop_ids", c_int64),
        ("tokens", c_void_p),
    ]


def dice_of(dice: decoder.Dice) -> Dice:
    """For a call."""
    return Dice(dice.inverse_temperature, dice.seed is not None, dice.seed or 0)


def layout() -> int:
    """As decoder.cpp has it: sizes of all that is handed over."""
    found = (_CALLS * 509 + PAGE_TOKENS) * 509 + BLOCK_INS
    for structure in (Model, Layer, Batch, Rows, Draws, Adapter):
        found = found * 509 + ctypes.sizeof(structure)
    return found % 2**64


class Library:
    """The calls of one file.

    Raises:
        EngineError: it was built of other sources.
    """

    def __init__(self, path: str) -> None:
        calls = ctypes.CDLL(path)
        has_layout = getattr(calls, "specrouter_layout", None)
        if has_layout is not None:
            has_layout.restype = c_uint64
        if has_layout is None or has_layout() != layout():
            raise EngineError(f"{path}: built of other sources; install the package again")
        self.forward = calls.specrouter_forward
        self.forward.argtypes = [POINTER(Model), POINTER(Batch), c_int64]
        self.forward.restype = None
        self.logits = calls.specrouter_logits
        self.logits.argtypes = [POINTER(Model), *[c_void_p] * 2, c_int64, c_void_p, c_int64]
        self.logits.restype = None
        self.best = calls.specrouter_best
        self.best.argtypes = [c_void_p, c_int64, c_int64, POINTER(Dice), c_int64, c_void_p]
        self.best.restype = None
        self.draw = calls.specrouter_draw
        self.draw.argtypes = [
            POINTER(Model),
            POINTER(Batch),
            POINTER(Draws),
            *[c_void_p] * 2,
            c_int64,
        ]
        self.draw.restype = None
        self.scratch_floats = calls.specrouter_scratch_floats
        self.scratch_floats.argtypes = [POINTER(Model), c_int64]
        self.scratch_floats.restype = c_int64
        self._has_heads = calls.specrouter_has_heads
        self._has_heads.argtypes = [c_int64]
        self._has_heads.restype = c_int64
        calls.specrouter_runs_here.restype = c_int64
        self.runs_here = bool(calls.specrouter_runs_here())
        """Whether it was compiled for such a CPU; nothing that computes may be called where not."""
        calls.specrouter_panel_outs.restype = c_int64
        self.panel_outs = int(calls.specrouter_panel_outs())
        """Outputs that are computed side by side: of which its panels of weights are."""

    def has_heads(self, head_dim: int) -> bool:
        """Whether it has an attention for heads of this size."""
        return bool(self._has_heads(head_dim))


@lru_cache(1)
def find_library() -> Library | None:
    """The library, if the package was built with it and for this CPU."""
    spec = find_spec(_MODULE)
    library = Library(spec.origin) if spec is not None and spec.origin is not None else None
    if library is not None and library.runs_here:
        return library
    reason = "not there (no C++ compiler at install?)" if library is None else "for another CPU"
    _logger.warning(
        "the compiled CPU decoder is %s: forwards on the CPU take four to thirteen times as long",
        reason,
    )
    return None
