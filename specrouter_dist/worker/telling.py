"""The end of a request: at its target a line of the log, and spans of all that took part."""

import logging
from dataclasses import dataclass

from specrouter_dist.links.control import Submit
from specrouter_dist.observability.spans import Attribute, begin_span
from specrouter_dist.worker.session import Session

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Times:
    """Of one request, in seconds by the worker's clock."""

    arrived_s: float
    begun_s: float | None = None
    """There was room for it."""
    first_s: float | None = None
    """Its first token was there."""

    @property
    def prefill_us(self) -> int:
        """Between the two, once both have been."""
        assert self.begun_s is not None and self.first_s is not None
        return int((self.first_s - self.begun_s) * 1e6)


def tell_end(submit: Submit, session: Session, reason: str, times: Times, now_s: float) -> None:
    """Tells of a request that had a session; ``reason`` is why it ends."""
    is_logged = logger.isEnabledFor(logging.INFO)
    if not is_logged and not submit.trace:
        return
    fields: dict[str, str | int | float] = {
        "request_id": submit.name,
        "status": reason,
        "chain": ">".join(session.chain),
        "lossy": submit.lossy is not None,
        "num_prompt_tokens": session.prompt_tokens,
        "num_tokens": len(session.model_stage.tokens) - session.prompt_tokens,
        "num_rounds": session.num_rounds,
        "queue_time_ms": session.queued_us / 1e3,
        "total_ms": (now_s - times.arrived_s) * 1e3,
    }
    if is_logged:
        logger.info("request", extra=fields)
    if submit.trace:
        _end_span(submit, session, fields, times, now_s)


def tell_drafted(session: Session) -> None:
    """Ends the span of a member that was drafting, if somebody asks for the request's spans."""
    if session.span is not None:
        device_ms = session.device_us / 1e3
        session.span.end({"specrouter.device_ms": device_ms, **_pairs(session)})


def tell_failure(submit: Submit, error: Exception) -> None:
    """Tells of a request that never had a session."""
    kind = type(error).__name__
    logger.info("request", extra={"request_id": submit.name, "status": kind})
    span = begin_span("target", submit.trace) if submit.trace else None
    if span is not None:
        span.end({"specrouter.request_id": submit.name}, kind)


def _end_span(
    submit: Submit,
    session: Session,
    fields: dict[str, str | int | float],
    times: Times,
    now_s: float,
) -> None:
    span = begin_span(session.member.name, submit.trace, ago_s=now_s - times.arrived_s)
    if span is None:
        return
    ends = (
        ("queue", times.begun_s),
        ("prefill", times.first_s),
        ("decode", now_s if times.first_s is not None else None),
    )
    began_s = times.arrived_s
    for part, ended_s in ends:
        if ended_s is not None:
            span.part(part, now_s - began_s, now_s - ended_s)
            began_s = ended_s
    named = {f"specrouter.{name}": value for name, value in fields.items()}
    span.end({**named, **_pairs(session)}, ago_s=0.0)


def _pairs(session: Session) -> dict[str, Attribute]:
    """What the member and those above it have proposed to each other."""
    return {
        f"specrouter.{level.draft}>{level.verifier}.{name}": getattr(level, name)
        for level in session.levels()
        for name in ("rounds", "proposed", "accepted")
    }
