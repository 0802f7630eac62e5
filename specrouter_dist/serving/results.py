"""What is asked of a backend, and what it gives back; the JSON of one result.

The metrics' names and meanings are vLLM's, so that its clients read them; ``levels`` is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from specrouter_dist.config import LossyParams, Plan, SamplingParams
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.control import FinishReason
from specrouter_dist.routing.outline import Outline
from specrouter_dist.routing.traffic import Traffic
from specrouter_dist.speculation.messages import TokenArray


@dataclass(frozen=True, slots=True)
class TierMetrics:
    """Who has decided the tokens of a lossy output, and what the target says of them.

    After a target was lost, of the tokens that came since.
    """

    accepted: int
    """Tier A: the draft's, which the slim verifier has taken."""
    slim: int
    """Tier B: the slim verifier's own."""
    escalated: int
    """Tier C, and all others that the target has picked."""
    num_escalations: int
    """How often the slim verifier has found a draft too unlikely."""
    num_confirmed: int
    """Of these, how often the target has picked just that."""
    num_checked: int
    """Tokens of tiers A and B that the target has been fed since."""
    num_disagreements: int
    """Of these, those where it picks another."""
    overshoot_mean: float | None
    """By how much the slim verifier's probability of them exceeds the target's, 0 where it does
    not; None: nothing was checked."""
    overshoot_p99: float | None
    overshoot_max: float | None

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt to continue."""

    prompt_ids: TokenArray
    sampling: SamplingParams
    chain: tuple[str, ...] | None = None
    """Members, drafter first and target last; None lets the router choose."""
    plan: Plan | None = None
    """These knobs and no others; None: what the router knows to be best for ``chain``."""
    task: str = ""
    """What the prompt is about, where that is known."""
    name: str = ""
    """The client's id of the request, which logs repeat."""
    trace: str = ""
    """Traceparent of the span that it belongs to; empty: nobody asks for spans."""
    lossy: LossyParams | None = None
    """The slim member before the target in ``chain`` commits tokens by itself; None: the text is
    the target's."""

    @property
    def traffic(self) -> Traffic:
        """The kind of request."""
        return Traffic.of(self.sampling, self.task)


@dataclass(frozen=True, slots=True)
class SpeculationMetrics:
    """How the target's proposals fared. Steps without proposals are not counted."""

    histograms: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """By the number n of a step's proposals, ascending, ``n + 1`` numbers each: ``[j]``, steps in
    which exactly j of the n were accepted."""

    def __add__(self, other: "SpeculationMetrics") -> "SpeculationMetrics":
        """Of both outputs together."""
        mine, theirs = dict(self.histograms), dict(other.histograms)
        return SpeculationMetrics(
            tuple(
                (num, _sums(mine.get(num, ()), theirs.get(num, ())))
                for num in sorted(mine.keys() | theirs.keys())
            )
        )

    @property
    def acceptance_histogram(self) -> tuple[int, ...]:
        """``[j]``: steps in which exactly j proposals were accepted, whatever their number."""
        return _sums((0,), *(histogram for _, histogram in self.histograms))

    @property
    def num_spec_tokens(self) -> int:
        """Most proposals of a step."""
        return self.histograms[-1][0] if self.histograms else 0

    @property
    def num_draft_tokens(self) -> int:
        """Proposals the target verified."""
        return sum(num * sum(histogram) for num, histogram in self.histograms)

    @property
    def num_spec_steps(self) -> int:
        """Verifying forwards of the target."""
        return sum(self.acceptance_histogram)

    @property
    def num_accepted_draft_tokens(self) -> int:
        """Accepted proposals, bonus tokens not among them."""
        return sum(j * steps for j, steps in enumerate(self.acceptance_histogram))

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens per verifying step, the bonus token included; None without steps."""
        steps = self.num_spec_steps
        return 1 + self.num_accepted_draft_tokens / steps if steps else None

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Accepted share of the proposals; None without proposals."""
        proposed = self.num_draft_tokens
        return self.num_accepted_draft_tokens / proposed if proposed else None

    def to_json(self) -> dict[str, Any]:
        """vLLM's ``metrics.speculative_decoding``."""
        return {
            "mean_acceptance_length": self.mean_acceptance_length,
            "draft_acceptance_rate": self.draft_acceptance_rate,
            "acceptance_histogram": list(self.acceptance_histogram),
            "acceptance_histogram_by_draft_length": {
                str(num): list(histogram) for num, histogram in self.histograms
            },
            "num_spec_steps": self.num_spec_steps,
            "num_draft_tokens": self.num_draft_tokens,
            "num_accepted_draft_tokens": self.num_accepted_draft_tokens,
            "num_spec_tokens": self.num_spec_tokens,
        }


def _sums(*rows: tuple[int, ...]) -> tuple[int, ...]:
    """Place by place; short rows end in zeros."""
    return tuple(map(sum, zip_longest(*rows, fillvalue=0)))


@dataclass(frozen=True, slots=True)
class LevelMetrics:
    """One edge of the chain: what ``draft`` proposed to ``verifier``."""

    draft: str
    verifier: str
    proposed: int
    accepted: int
    rounds: int
    """Forwards of the verifier that had proposals to check."""
    truncations: int
    """How often the drafter's stream was cut back."""

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PlanUse:
    """The request went on with another plan."""

    after_rounds: int
    """Of the target."""
    plan: Outline

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return {"after_rounds": self.after_rounds, **self.plan.to_json()}


@dataclass(frozen=True, slots=True)
class GenerationMetrics:
    """One output's times and acceptance."""

    time_to_first_token_ms: float
    """From the request's start to its first token."""
    generation_time_ms: float
    """From the first token to the last."""
    device_ms_per_token: float | None
    """Device time of all members per output token; None where it was not measured."""
    speculation: SpeculationMetrics = SpeculationMetrics()
    levels: tuple[LevelMetrics, ...] = ()
    """Edges in chain order, the drafter's first."""
    num_rounds: int = 0
    """Forwards of the target that wrote, those without proposals too."""
    plans: tuple[PlanUse, ...] = ()
    """Those it went with, the newest last; of many only the newest."""
    task: str = ""
    """What the prompt is about, as the client or the pool's partition has it; empty: unknown."""
    queue_time_ms: float = 0.0
    """That it waited for room at the target."""
    prefill_time_ms: float = 0.0
    """From there to its first token; over the last target that it had."""


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """One output."""

    text: str
    token_ids: TokenArray
    """Output ids, with the EOS or stop id that ended it, if one did."""
    seed: int
    """Key of the noise; with prompt and target it determines the output."""
    finish_reason: FinishReason
    chain: tuple[str, ...]
    """The chain that served it, drafter first; after re-planning the last one."""
    metrics: GenerationMetrics
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One entry per token when asked for."""
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    """One entry per token of the prompt but the first when asked for."""
    tiers: TierMetrics | None = None
    """Of a lossy output."""

    @property
    def tokens_per_second(self) -> float | None:
        """All output tokens over the time from start to end, prefill included."""
        total_ms = self.metrics.time_to_first_token_ms + self.metrics.generation_time_ms
        return len(self.token_ids) / total_ms * 1000 if total_ms > 0 else None

    def lossy_json(self) -> dict[str, Any]:
        """What a lossy output has besides: that it is one, and who has decided its tokens."""
        return {} if self.tiers is None else {"lossy": True, "tiers": self.tiers.to_json()}

    def to_json(self, carried: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object of one output; ``carried`` are further keys, which ours win over."""
        metrics = self.metrics
        return {
            **(carried or {}),
            "text": self.text,
            "token_ids": self.token_ids.tolist(),
            "seed": self.seed,
            "finish_reason": self.finish_reason,
            "chain": list(self.chain),
            **self.lossy_json(),
            "metrics": {
                "time_to_first_token_ms": metrics.time_to_first_token_ms,
                "generation_time_ms": metrics.generation_time_ms,
                "tokens_per_second": self.tokens_per_second,
                "device_ms_per_token": metrics.device_ms_per_token,
                "speculative_decoding": metrics.speculation.to_json(),
                "levels": [level.to_json() for level in metrics.levels],
                "num_rounds": metrics.num_rounds,
                "queue_time_ms": metrics.queue_time_ms,
                "plans": [plan.to_json() for plan in metrics.plans],
                "task": metrics.task or None,
            },
        }
