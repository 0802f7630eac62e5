"""What offline work is done on."""

from dataclasses import dataclass

from specrouter_dist.speculation.messages import TokenArray


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a log."""

    text: str
    tokens: TokenArray
