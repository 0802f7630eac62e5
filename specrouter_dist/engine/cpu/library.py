"""The compiled decoder (decoder.cpp), as C structures and calls.

The package's build compiles it for the CPU that it runs on; where there was no compiler, or the CPU
is another one, torch's operations take its place and say so.
"""

import ctypes
import logging
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import lru_cache
from importlib.util import find_spec
from typing import ClassVar

from specrouter_dist.errors import EngineError

_logger = logging.getLogger(__name__)

_MODULE = "specrouter_dist.engine.cpu._decoder"
_VERSION = 1
"""Of decoder.cpp, whose structures these are."""


class Matrix(Structure):
    _fields_: ClassVar = [
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("num_ins", c_int64),
        ("num_outs", c_int64),
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


class Draft(Structure):
    _fields_: ClassVar = [
        ("num_tokens", c_int64),
        ("scale", c_float),
        ("noise", c_void_p),
        ("tokens", c_void_p),
    ]


class Library:
    """The calls of one file.

    Raises:
        EngineError: it was built of other sources.
    """

    def __init__(self, path: str) -> None:
        calls = ctypes.CDLL(path)
        calls.specrouter_version.restype = c_int64
        if calls.specrouter_version() != _VERSION:
            raise EngineError(f"{path}: built of other sources; install the package again")
        self.forward = calls.specrouter_forward
        self.forward.argtypes = [POINTER(Model), POINTER(Batch), c_int64]
        self.forward.restype = None
        self.logits = calls.specrouter_logits
        self.logits.argtypes = [POINTER(Model), *[c_void_p] * 2, c_int64, *[c_void_p] * 2, c_int64]
        self.logits.restype = None
        self.best = calls.specrouter_best
        self.best.argtypes = [c_void_p, c_int64, c_int64, c_float, c_void_p, c_void_p]
        self.best.restype = None
        self.draft = calls.specrouter_draft
        self.draft.argtypes = [
            POINTER(Model),
            POINTER(Batch),
            POINTER(Draft),
            *[c_void_p] * 2,
            c_int64,
        ]
        self.draft.restype = None
        self.scratch_floats = calls.specrouter_scratch_floats
        self.scratch_floats.argtypes = [POINTER(Model), c_int64]
        self.scratch_floats.restype = c_int64
        self._runs = calls.specrouter_runs
        self._runs.argtypes = [c_int64]
        self._runs.restype = c_int64

    def runs(self, head_dim: int) -> bool:
        """Whether this CPU runs it, and it has an attention for heads of this size."""
        return bool(self._runs(head_dim))


@lru_cache(1)
def find_library() -> Library | None:
    """The library, if the package was built with it."""
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        _logger.warning(
            "the compiled CPU decoder is not there (no C++ compiler at install?): forwards on "
            "the CPU take two to five times as long"
        )
        return None
    return Library(spec.origin)
