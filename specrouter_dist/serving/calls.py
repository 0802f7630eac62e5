"""One call of a client, from its arrival to its end: its id, whose it is, and what came of it.

At its end a call is one line of the log, without any text of prompts or outputs.
"""

import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from specrouter_dist.errors import RequestError
from specrouter_dist.observability.spans import RequestSpan, begin_span
from specrouter_dist.serving.admission import Account
from specrouter_dist.serving.results import GenerateResult, SpeculationMetrics

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
"""Of HTTP; as metadata of gRPC in lower case."""
TRACE_HEADER = "traceparent"
"""W3C's, of both."""
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(slots=True, eq=False)
class Call:
    """What is known of a call. Its route and those that answer it fill it in."""

    kind: str = ""
    """A path of HTTP, or a method of gRPC."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    """The client's own name for it, or one that was made for it."""
    account: Account | None = None
    """Of the API key; None: there are no keys, or nobody has called."""
    num_prompt_tokens: int = 0
    results: list[GenerateResult] = field(default_factory=list)
    """The outputs that are whole."""
    error: str | None = None
    """Class of what it has failed with."""
    started_s: float = field(default_factory=time.perf_counter)
    span: RequestSpan | None = None
    """None: nobody asks for spans."""

    @classmethod
    def arrived(cls, kind: str, request_id: str | None, traceparent: str | None) -> Self:
        """A call that comes with these headers, or without.

        Raises:
            RequestError: no usable id.
        """
        if request_id and not _ID.fullmatch(request_id):
            raise RequestError(
                f"{REQUEST_ID_HEADER}: at most 128 characters of A-Z a-z 0-9 . _ : / + = @ -",
                field=REQUEST_ID_HEADER,
            )
        call = cls(kind, span=begin_span(kind, traceparent or ""))
        if request_id:
            call.id = request_id
        return call

    @property
    def traceparent(self) -> str:
        """For the spans of other processes; empty: there are none."""
        return self.span.traceparent if self.span else ""

    def end(self, status: int | str) -> None:
        """Writes the line and ends the span; ``status`` is HTTP's, gRPC's, or ``cancelled``."""
        is_logged = logger.isEnabledFor(logging.INFO)
        if self.span is None and not is_logged:
            return
        fields = self._fields(status)
        if is_logged:
            logger.info("request", extra=fields)
        if self.span is not None:
            self.span.end({f"specrouter.{name}": fields[name] for name in fields}, self.error)

    def _fields(self, status: int | str) -> Mapping[str, Any]:
        results = self.results
        metrics = [result.metrics for result in results]
        num_tokens = sum(len(result.token_ids) for result in results)
        num_later_tokens = num_tokens - sum(bool(result.token_ids) for result in results)
        decode_ms = sum(one.generation_time_ms for one in metrics)
        drafts = sum((one.speculation for one in metrics), SpeculationMetrics())
        return {
            "request_id": self.id,
            "key": self.account.name if self.account else None,
            "kind": self.kind,
            "status": status,
            "error": self.error,
            "chains": sorted({">".join(chain) for result in results for chain in _chains(result)}),
            "num_choices": len(results),
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_tokens": num_tokens,
            "time_to_first_token_ms": min(
                (m.time_to_first_token_ms for m in metrics), default=None
            ),
            "ms_per_token": decode_ms / num_later_tokens if num_later_tokens else None,
            "acceptance_rate": drafts.draft_acceptance_rate,
            "mean_acceptance_length": drafts.mean_acceptance_length,
            "total_ms": (time.perf_counter() - self.started_s) * 1e3,
        }


def _chains(result: GenerateResult) -> set[tuple[str, ...]]:
    return {result.chain, *(use.plan.chain for use in result.metrics.plans)}
