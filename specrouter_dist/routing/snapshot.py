"""What a router knows, as bytes, so that one that is started again need not learn it again.

Agreement is a matter of the models. Times are one of the workers that run: only a router of the
same workers takes them back.
"""

from typing import Annotated, Any

import msgpack
from pydantic import AfterValidator, Field, ValidationError

from specrouter_dist.config import UserModel
from specrouter_dist.errors import SnapshotError
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.state import (
    Count,
    EvidenceState,
    LatencyState,
    PaceState,
    ScoreState,
    check_blocks,
    check_score,
)
from specrouter_dist.routing.traffic import Traffic

_UNSAVED_PLANS = 1000
"""More than can have been handed out since a snapshot was written: workers ignore lower numbers."""
VERSION = 5
MAX_BYTES = 64 * 1024 * 1024
"""About 200,000 pairs, each from one source and for one kind of request."""


class _Snapshot(UserModel):
    version: int
    pool_hash: str
    life: str
    """Of the workers."""
    at_s: Count
    number: Annotated[int, Field(ge=0, le=1 << 53)]
    """Of the newest plan table."""
    kinds: tuple[Traffic, ...]
    agreement: tuple[Annotated[EvidenceState, AfterValidator(check_blocks)], ...]
    scores: tuple[Annotated[ScoreState, AfterValidator(check_score)], ...]
    latency: LatencyState
    paces: tuple[PaceState, ...]


def dump(router: Router, *, pool_hash: str, life: str, now_s: float) -> bytes:
    """What ``router`` knows.

    Args:
        pool_hash: of the pool's configuration.
        life: of the pool's workers; another one when these have been started anew.
        now_s: by the router's clock.

    Raises:
        SnapshotError: it is too large, or holds what :func:`restore` would refuse.
    """
    content = {
        "version": VERSION,
        "pool_hash": pool_hash,
        "life": life,
        "at_s": now_s,
        "number": router.number,
        "kinds": router.kinds,
        "agreement": router.agreement.state(now_s),
        "scores": router.agreement.scores.state(now_s),
        "latency": router.latency.state(),
        "paces": router.paces.state(),
    }
    _checked(content)
    data: bytes = msgpack.packb(content)
    _check_size(data)
    return data


def restore(router: Router, data: bytes, *, pool_hash: str, life: str, now_s: float) -> None:
    """Gives a new router what :func:`dump` has kept: all of it, or without its times if the
    workers are others. Evidence has aged by the time between, as far as clocks agree about it.

    Raises:
        SnapshotError: ``data`` is no snapshot of this version and pool; ``router`` is as before.
    """
    _check_size(data)
    snapshot = _checked(_unpack(data))
    if snapshot.pool_hash != pool_hash:
        raise SnapshotError(f"of pool {snapshot.pool_hash[:12]!r}, not of {pool_hash[:12]!r}")
    then_s = min(now_s, snapshot.at_s)
    router.agreement.restore(snapshot.agreement, snapshot.scores, then_s)
    number = snapshot.number + _UNSAVED_PLANS if snapshot.life == life else 0
    router.resume(number, snapshot.kinds, now_s)
    if snapshot.life == life:
        router.latency.restore(snapshot.latency)
        router.paces.restore(snapshot.paces)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise SnapshotError(f"{len(data)} bytes; at most {MAX_BYTES} are read")


def _unpack(data: bytes) -> dict[str, Any]:
    try:
        raw = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as problem:
        raise SnapshotError(f"no whole msgpack: {type(problem).__name__}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise SnapshotError("no snapshot of a router")
    if raw.get("version") != VERSION:
        raise SnapshotError(f"of version {raw.get('version')!r}; this is version {VERSION}")
    return raw


def _checked(raw: dict[str, Any]) -> _Snapshot:
    try:
        return _Snapshot.model_validate(raw)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise SnapshotError(f"{path}: {first['msg']}, got {str(first['input'])[:60]}") from None
