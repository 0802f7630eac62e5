"""How a worker is just now, for those who watch it."""

from dataclasses import dataclass

from specrouter_dist.worker.worker import Worker


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


def status_of(worker: Worker) -> Status:
    """On the worker's engine thread."""
    requests = worker._requests
    return Status(
        num_sessions=worker.num_sessions,
        kv_share=worker._models[0].engine.kv_share if worker._models else 0.0,
        num_running=requests.num_running if requests else 0,
        num_waiting=requests.num_waiting if requests else 0,
        num_tokens=requests.num_tokens if requests else 0,
    )
