"""Prometheus metrics of the service: vLLM's names where it has them, ``specrouter:`` for ours.

Everything is counted when an output ends, from its result: no round costs anything. Each choice
counts as a request of its own.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from specrouter_dist.serving.exposition import Families
from specrouter_dist.serving.results import (
    GenerateRequest,
    GenerateResult,
    LevelMetrics,
    TierMetrics,
)

_TOKENS = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0),
    *(60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""In seconds; vLLM's, so that its dashboards compare."""


class ServiceMetrics:
    """What has ended so far; ``model`` is a label of everything."""

    def __init__(self, model: str, *, are_tasks_told: bool = False) -> None:
        """``are_tasks_told``: whether a classifier says what prompts are about."""
        self._registry = CollectorRegistry()
        self._requests = _Requests(self._registry, model)
        self._drafts = _Drafts(self._registry, model)
        self._levels = _Levels(self._registry, model)
        self._tiers = _Tiers(self._registry, model)
        Gauge(
            "specrouter:tasks_available",
            "1 where prompts are told apart by task, 0 where they are not",
            ["model_name"],
            registry=self._registry,
        ).labels(model).set(are_tasks_told)
        self._running, self._waiting = (
            Gauge(name, what, ["model_name"], registry=self._registry).labels(model)
            for name, what in (
                ("vllm:num_requests_running", "Requests that have tokens and want more"),
                ("vllm:num_requests_waiting", "Requests without a token: queued or prefilling"),
            )
        )

    def on_end(self, request: GenerateRequest, result: GenerateResult | None) -> None:
        """Counts an output; None: it has failed, or its client has left."""
        self._requests.on_end(request, result)
        if result is None:
            return
        if result.tiers is not None:
            # What a lossy output has accepted says nothing of the others' agreement.
            self._tiers.on_end(result.tiers)
            return
        self._drafts.on_end(result)
        self._levels.on_end(result.metrics.levels)

    def families(self, *, num_running: int, num_waiting: int) -> Families:
        """All of them, with how much runs now."""
        self._running.set(num_running)
        self._waiting.set(num_waiting)
        return list(self._registry.collect())


class _Requests:
    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        def histogram(name: str, what: str, buckets: Iterable[float]) -> Histogram:
            made = Histogram(name, what, ["model_name"], buckets=tuple(buckets), registry=registry)
            return made.labels(model)

        self._model = model
        self._ended = Counter(
            "vllm:request_success",
            "Requests that have ended, by reason; abort: failed, or the client has left",
            ["model_name", "finished_reason"],
            registry=registry,
        )
        self._chains = Counter(
            "specrouter:requests",
            "Requests that have ended, by the chain that served them last",
            ["model_name", "chain"],
            registry=registry,
        )
        self._tasks = Counter(
            "specrouter:task_requests",
            "Requests that have ended, by what their prompts are about; none: unknown",
            ["model_name", "task"],
            registry=registry,
        )
        self._prompt_tokens, self._output_tokens = (
            Counter(f"vllm:{name}", what, ["model_name"], registry=registry).labels(model)
            for name, what in (
                ("prompt_tokens", "Tokens of the prompts"),
                ("generation_tokens", "Tokens of the outputs"),
            )
        )
        self._prompt_sizes = histogram("vllm:request_prompt_tokens", "Tokens per prompt", _TOKENS)
        self._output_sizes = histogram(
            "vllm:request_generation_tokens", "Tokens per output", _TOKENS
        )
        self._first_token_s = histogram(
            "vllm:time_to_first_token_seconds", "From request to first token", _FIRST_TOKEN_S
        )
        self._token_s = tuple(
            histogram(name, "Per output token behind the first, mean of a request", _TOKEN_S)
            # The present name, and the one that older dashboards have.
            for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
        )
        self._queue_s = histogram(
            "vllm:request_queue_time_seconds", "Waiting for room at the target", _REQUEST_S
        )
        self._prefill_s = histogram(
            "vllm:request_prefill_time_seconds",
            "From room at the target to first token",
            _REQUEST_S,
        )
        self._decode_s = histogram(
            "vllm:request_decode_time_seconds", "From first token to last", _REQUEST_S
        )
        self._whole_s = histogram(
            "vllm:e2e_request_latency_seconds", "From request to last token", _REQUEST_S
        )

    def on_end(self, request: GenerateRequest, result: GenerateResult | None) -> None:
        reason = "abort" if result is None else result.finish_reason
        self._ended.labels(self._model, reason).inc()
        if result is None:
            return
        self._chains.labels(self._model, ">".join(result.chain)).inc()
        self._tasks.labels(self._model, result.metrics.task or "none").inc()
        num_prompt_tokens, num_tokens = len(request.prompt_ids), len(result.token_ids)
        self._prompt_tokens.inc(num_prompt_tokens)
        self._output_tokens.inc(num_tokens)
        self._prompt_sizes.observe(num_prompt_tokens)
        self._output_sizes.observe(num_tokens)
        first_s = result.metrics.time_to_first_token_ms / 1e3
        decode_s = result.metrics.generation_time_ms / 1e3
        self._first_token_s.observe(first_s)
        self._queue_s.observe(result.metrics.queue_time_ms / 1e3)
        self._prefill_s.observe(result.metrics.prefill_time_ms / 1e3)
        self._decode_s.observe(decode_s)
        self._whole_s.observe(first_s + decode_s)
        if num_tokens > 1:
            for token_s in self._token_s:
                token_s.observe(decode_s / (num_tokens - 1))


class _Drafts:
    """The proposals that the target has verified."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._model = model
        self._drafts, self._proposed, self._accepted = (
            Counter(f"vllm:spec_decode_num_{name}", what, ["model_name"], registry=registry).labels(
                model
            )
            for name, what in (
                ("drafts", "Verifies of the target"),
                ("draft_tokens", "Proposals that the target has verified"),
                ("accepted_tokens", "Proposals that it has accepted"),
            )
        )
        self._accepted_at = Counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Proposals that the target has accepted, by their position in the block, from 0",
            ["model_name", "position"],
            registry=registry,
        )

    def on_end(self, result: GenerateResult) -> None:
        speculation = result.metrics.speculation
        self._drafts.inc(speculation.num_spec_steps)
        self._proposed.inc(speculation.num_draft_tokens)
        self._accepted.inc(speculation.num_accepted_draft_tokens)
        num_steps = speculation.num_spec_steps
        for position, num_ended in enumerate(speculation.acceptance_histogram[:-1]):
            # Who accepts more than so many accepts this one.
            num_steps -= num_ended
            self._accepted_at.labels(self._model, str(position)).inc(num_steps)


class _Levels:
    """Every pair of a drafter and its verifier, at any level; 1 is the lowest of a chain."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._model = model
        self._counters = tuple(
            (
                name,
                Counter(
                    f"specrouter:level_{name}",
                    what,
                    ["model_name", "draft", "verifier", "level"],
                    registry=registry,
                ),
            )
            for name, what in (
                ("proposed", "Tokens that the one has proposed to the other"),
                ("accepted", "Proposals that were accepted"),
                ("rounds", "Forwards of the verifier that had proposals to check"),
                ("truncations", "How often the drafter's stream was cut back"),
            )
        )

    def on_end(self, levels: Iterable[LevelMetrics]) -> None:
        verifiers: set[str] = set()
        for level in levels:
            # A verifier may have a second drafter: its own text.
            verifiers.add(level.verifier)
            labels = self._model, level.draft, level.verifier, str(len(verifiers))
            for name, counter in self._counters:
                counter.labels(*labels).inc(getattr(level, name))


class _Tiers:
    """Lossy outputs, apart from the others."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._model = model
        self._tokens = Counter(
            "specrouter:lossy_tokens",
            "Tokens of lossy outputs, by tier; escalated: the target has picked them",
            ["model_name", "tier"],
            registry=registry,
        )
        self._checked, self._disagreements = (
            Counter(f"specrouter:lossy_{name}", what, ["model_name"], registry=registry).labels(
                model
            )
            for name, what in (
                ("checked_tokens", "Tokens that the target was fed after they had been sent"),
                ("disagreements", "Of these, those where it picks another"),
            )
        )

    def on_end(self, tiers: TierMetrics) -> None:
        for tier in ("accepted", "slim", "escalated"):
            self._tokens.labels(self._model, tier).inc(getattr(tiers, tier))
        self._checked.inc(tiers.num_checked)
        self._disagreements.inc(tiers.num_disagreements)
