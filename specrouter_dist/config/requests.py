"""How one request is drawn and drafted."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from specrouter_dist.config.values import MAX_COUNT, MAX_SEED, Finite, TokenId, UserModel


class SamplingParams(UserModel):
    """How one request's tokens are drawn. Names and meanings are OpenAI's and vLLM's."""

    max_tokens: int = Field(default=16, ge=1, le=MAX_COUNT)
    """Most tokens to generate."""
    min_tokens: int = Field(default=0, ge=0, le=MAX_COUNT)
    """EOS and stop ids cannot be drawn before this many."""
    temperature: Finite = Field(default=1.0, ge=0.0, le=100.0)
    """0 is greedy."""
    top_p: Finite = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=-1, le=MAX_COUNT)
    """0 and -1 mean all."""
    min_p: Finite = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Key of the noise; with the prompt and the target it determines the text."""
    repetition_penalty: Finite = Field(default=1.0, gt=0.0, le=100.0)
    presence_penalty: Finite = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: Finite = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]] = (
        Field(default_factory=dict)
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), max_length=16)
    stop_token_ids: tuple[TokenId, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """None: no log-probabilities; n: those of the token and of the n likeliest."""
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    """The same of the prompt's tokens but the first."""

    @model_validator(mode="after")
    def _min_tokens_below_max_tokens(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens ({self.min_tokens}) must not be above max_tokens ({self.max_tokens})"
            )
        return self

    @property
    def greedy(self) -> bool:
        """Whether every draw is the argmax."""
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """Whether the logits depend on which tokens are present."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


class LossyParams(UserModel):
    """Which tokens a slim verifier commits before the target has verified them (VIA-SD, arXiv
    2606.12243): the text is not the target's any more.

    By ``r = q'(v) / max q'`` of the slim verifier's law at each drafted token ``v``, in three
    tiers.
    """

    accept: Finite = Field(default=0.6, gt=0.0, lt=1.0)
    """Tier A, from here on: the draft's token stands."""
    escalate: Finite = Field(default=0.3, gt=0.0, lt=1.0)
    """Tier B, from here on: the slim verifier's own token stands. Tier C, below: the target's."""
    max_unverified_share: Finite = Field(default=0.9, gt=0.0, le=1.0)
    """Most of the output, at any time, that may be tokens of tiers A and B."""

    @model_validator(mode="after")
    def _no_tier_is_empty(self) -> Self:
        if not self.escalate < self.accept:
            raise ValueError(
                "0 < escalate < accept < 1 must hold, got "
                f"escalate={self.escalate}, accept={self.accept}"
            )
        return self


class EdgeKnobs(UserModel):
    """How the stage at the lower end of an edge treats its upstream (DESIGN: section 3)."""

    window: int = Field(default=8, ge=1, le=1024)
    """How many tokens upstream may draft beyond this stage's stream."""
    burst: int = Field(default=8, ge=1, le=1024)
    """Most proposals fed in one verify."""
    patience: int = Field(default=8, ge=0, le=1024)
    """Fewest proposals to start one."""
    patience_ms: Finite = Field(default=50.0, gt=0.0)
    """How long to wait for them."""
    match_tokens: int = Field(default=0, ge=0, le=64)
    """Where so many last tokens of this stage's stream have occurred before, what followed then is
    verified, and upstream is not waited for; 0: never."""
    outcomes: int = Field(default=0, ge=0, le=16)
    """For how many likely outcomes of a verify upstream may prepare its answer meanwhile; 0: none.
    Answers are whole blocks, so ``patience`` must not be 0."""

    @property
    def drafts_ahead(self) -> bool:
        """Whether upstream may draft the next block while this one is verified."""
        return self.window > self.burst

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.patience <= self.burst <= self.window:
            raise ValueError(
                "0 <= patience <= burst <= window must hold, got "
                f"patience={self.patience}, burst={self.burst}, window={self.window}"
            )
        if self.outcomes and not self.patience:
            raise ValueError(f"outcomes ({self.outcomes}) are prepared only for a patience above 0")
        return self


class Plan(UserModel):
    """A chain of members, drafter first and target last, and the knobs of its edges."""

    number: int = Field(default=0, ge=0)
    """Newer plans have higher numbers; older ones are ignored."""
    chain: tuple[str, ...] = Field(min_length=1)
    edges: tuple[EdgeKnobs, ...] = ()
    """``edges[i]`` joins ``chain[i]`` to ``chain[i + 1]``."""

    @model_validator(mode="after")
    def _one_edge_between_neighbours(self) -> Self:
        if len(self.edges) != len(self.chain) - 1:
            raise ValueError(
                f"a chain of {len(self.chain)} members has {len(self.chain) - 1} edges, "
                f"got {len(self.edges)}"
            )
        if len(set(self.chain)) != len(self.chain):
            raise ValueError(f"a chain names each member once, got {list(self.chain)}")
        return self
