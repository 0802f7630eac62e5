"""The messages of a link and their codec, in one place to import from."""

from specrouter_dist.links.control import (
    Attach,
    Cancel,
    Detach,
    Failed,
    FinishReason,
    LevelCounts,
    Output,
    Refused,
    Replan,
    Report,
    Settled,
    Submit,
    WireMessage,
)
from specrouter_dist.links.decoding import decode
from specrouter_dist.links.encoding import encode
from specrouter_dist.speculation.messages import EdgeId, Proposals, Truth

__all__ = [
    "Attach",
    "Cancel",
    "Detach",
    "EdgeId",
    "Failed",
    "FinishReason",
    "LevelCounts",
    "Output",
    "Proposals",
    "Refused",
    "Replan",
    "Report",
    "Settled",
    "Submit",
    "Truth",
    "WireMessage",
    "decode",
    "encode",
]
