"""How a worker is just now, for those who watch it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.requests import Requests


@dataclass(frozen=True, slots=True)
class Status:
    """Taken between two turns of the engine thread."""

    num_sessions: int = 0
    """Open, the parked ones too."""
    kv_share: float = 0.0
    """Of the first model's KV cache, in use or kept for later requests; 0 to 1."""
    num_running: int = 0
    """Requests with a session of the target."""
    num_waiting: int = 0
    """Requests that wait for room."""
    num_tokens: int = 0
    """That the target has put out since it started."""
    num_prefix_queries: int = 0
    """Tokens that the first model's prefix cache was asked for since it started."""
    num_prefix_hits: int = 0
    """Of these, those that it had."""

    @classmethod
    def of(cls, num_sessions: int, models: Sequence[ModelHost], requests: Requests | None) -> Self:
        """``requests``: None without a target."""
        return cls(
            num_sessions=num_sessions,
            kv_share=models[0].engine.kv_share if models else 0.0,
            num_running=requests.num_running if requests else 0,
            num_waiting=requests.num_waiting if requests else 0,
            num_tokens=requests.num_tokens if requests else 0,
            num_prefix_queries=models[0].counts.num_prefix_queries if models else 0,
            num_prefix_hits=models[0].counts.num_prefix_hits if models else 0,
        )
