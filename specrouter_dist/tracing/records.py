"""What a worker records while it is traced."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class Kind(StrEnum):
    """What an engine thread's time goes to."""

    FORWARD = "forward"
    """Feeding tokens to a model, without the draws."""
    SAMPLING = "sampling"
    """From logits to tokens."""
    PYTHON = "python"
    """Stages, chains, requests: all that decides what is fed and said."""
    SERIALISATION = "serialisation"
    """Reading, decoding, encoding and writing frames."""
    HOP = "hop"
    """Waiting while a frame is on its way here."""
    WAITING = "waiting"
    """Waiting for somebody else's work."""


class SpanName(NamedTuple):
    """What spans of one name have in common."""

    kind: Kind
    label: str
    member: str = ""
    """Whose model it is about, if it is about one."""


class Span(NamedTuple):
    """A stretch of an engine thread's time; spans of a thread nest."""

    name: SpanName
    began_ns: int
    ended_ns: int


MessageKey: TypeAlias = tuple[str | int, ...]
"""A message's kind and what tells it from all others of its kind."""


class Frame(NamedTuple):
    """One frame that a worker has sent or received."""

    peer: str
    """Name of the worker at the other end."""
    is_sent: bool
    at_ns: int
    """When encoding began, or when the engine thread had it."""
    keys: tuple[MessageKey, ...]
    """Of the messages between stages that were in it."""


@dataclass(frozen=True, slots=True)
class WorkerTrace:
    """All of one worker, in nanoseconds by its own clock."""

    worker: str
    node: str
    """Processes of one node share a clock."""
    wall_ns: int
    """Time of day at which the clock would have said 0."""
    names: tuple[SpanName, ...]
    spans: "array[int]"
    """Three of ``'q'`` for each span, in the order in which they ended: index of its name, when it
    began, when it ended."""
    frames: tuple[Frame, ...]
    is_whole: bool = True
    """False: recording ended by itself, since there was too much."""

    def iter_spans(self) -> Iterator[Span]:
        """The spans, in the order in which they ended."""
        numbers = iter(self.spans)
        for name, began_ns, ended_ns in zip(numbers, numbers, numbers, strict=True):
            yield Span(self.names[name], began_ns, ended_ns)
