"""Everything a user writes: sampling parameters and pool files. Imports neither torch nor ray."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from specrouter_dist.validation import did_you_mean, one_of

MAX_SEED = (1 << 64) - 1
MAX_COUNT = (1 << 32) - 1
"""Of what is counted in tokens: more than any context, and it fits every wire."""

TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class UserModel(BaseModel):
    """Unknown fields are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    threads: int = Field(default=1, ge=1)
    """CPU threads of each of the chain's forwards."""

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


class LogFormat(StrEnum):
    """How processes write their logs."""

    TEXT = "text"
    """Warnings, as Python writes them."""
    JSON = "json"
    """One object a line, from INFO on: every request too."""


DEFAULT_LOG_FORMAT = LogFormat.TEXT


class Dtype(StrEnum):
    """Number format of weights, activations and KV cache."""

    FP32 = "fp32"
    BF16 = "bf16"


INT8_WEIGHT_BYTES = 3
"""Of a weight with ``quantization: int8``: held in int8, and in bf16 for forwards of many rows."""


class ModelMember(UserModel):
    """A member that is a causal language model."""

    kind: Literal["model"] = "model"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Literal["target", "drafter"]
    """``target``: the one whose output is promised. Drafters may also verify in between."""
    model: str
    """A directory (relative to the pool file) or a hub name."""
    revision: str | None = None
    engine: Literal["auto", "fast", "general", "synthetic"] = "auto"
    """``fast``: our decoder for the Llama family; ``general``: any transformers model;
    ``synthetic``: the fast engine over random weights in the shape of ``model``, which is the name
    of a ready shape or a directory that needs no weights. Its picks are those of the pool's
    ``synthetic`` texts."""
    device: Literal["cpu", "cuda"] = "cpu"
    num_gpus: Finite = Field(default=0.0, ge=0.0)
    """Share of GPUs that Ray reserves; fractions let members share one."""
    num_cpus: Finite = Field(default=0.0, ge=0.0)
    """CPUs that Ray reserves."""
    resources: dict[str, Finite] = Field(default_factory=dict)
    """Further Ray resources, e.g. ``{"accelerator_type:L4": 0.001}``."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray node labels that the member's node must carry."""
    dtype: Dtype = Dtype.BF16
    quantization: Literal["int8"] | None = None
    """``int8``: weights rounded to 8 bits per output, activations bf16. For drafters on the CPU,
    whose text nobody reads: half the bytes of bf16, so about twice the speed."""
    context_tokens: int | None = Field(default=None, ge=32)
    """Longest sequence; None: what the model allows."""
    kv_tokens: int = Field(default=32768, ge=64)
    """KV cache size, in tokens over all sessions."""
    max_sessions: int = Field(default=64, ge=1)
    prefix_cache: bool = True
    """Keep the KV of earlier requests for later ones that begin alike, while there is room. Only
    the fast engine does."""

    @model_validator(mode="after")
    def _quantization_fits(self) -> Self:
        if self.quantization and (self.role, self.device) != ("drafter", "cpu"):
            raise ValueError(
                f"member {self.name!r}: quantization is for members with role 'drafter' and "
                f"device 'cpu', got role={self.role!r}, device={self.device!r}"
            )
        return self

    @model_validator(mode="after")
    def _shapes_have_no_revision(self) -> Self:
        if self.engine == "synthetic" and self.revision is not None:
            raise ValueError(
                f"member {self.name!r}: revision: the shape of a member with engine 'synthetic' "
                f"has none, got {self.revision!r}"
            )
        return self

    @model_validator(mode="after")
    def _device_fits_gpus(self) -> Self:
        if (self.device == "cuda") != (self.num_gpus > 0):
            raise ValueError(
                f"member {self.name!r}: device 'cuda' goes with num_gpus > 0 and 'cpu' with 0, "
                f"got device={self.device!r}, num_gpus={self.num_gpus}"
            )
        return self


class LookupMember(UserModel):
    """A proposer that continues the longest match found in the prompt and the output."""

    kind: Literal["lookup"]
    name: str = Field(default="lookup", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Literal["drafter"] = "drafter"
    min_match_tokens: int = Field(default=2, ge=1, le=32)
    max_match_tokens: int = Field(default=8, ge=1, le=64)

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.min_match_tokens > self.max_match_tokens:
            raise ValueError(
                f"member {self.name!r}: min_match_tokens must not be above max_match_tokens"
            )
        return self


class QuantisedMember(UserModel):
    """A copy of another member with weights in 8 bits and a KV cache of its own (CPU)."""

    kind: Literal["quantised"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Literal["drafter"] = "drafter"
    of: str
    """A member of kind ``model``, whose settings it has but for those that follow."""
    kv_tokens: int | None = Field(default=None, ge=64)
    max_sessions: int | None = Field(default=None, ge=1)

    def as_model(self, of: ModelMember) -> ModelMember:
        """The member in full; ``ValueError``: ``of`` cannot be copied so."""
        if of.device != "cpu" or of.quantization:
            raise ValueError(
                f"member {self.name!r}: of: a copy in 8 bits is made of a member with device "
                f"'cpu' and no quantization, got {of.name!r} with device={of.device!r}, "
                f"quantization={of.quantization!r}"
            )
        return of.model_copy(
            update={
                "name": self.name,
                "role": self.role,
                "quantization": "int8",
                "kv_tokens": self.kv_tokens or of.kv_tokens,
                "max_sessions": self.max_sessions or of.max_sessions,
            }
        )


class LayerSkipMember(UserModel):
    """The target without some of its layers' parts: the same weights and KV cache, in its worker.

    A slim verifier (arXiv 2606.12243): it needs no memory of its own.
    """

    kind: Literal["layer_skip"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Literal["drafter"] = "drafter"
    of: str
    """The pool's target."""
    mask: tuple[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)\.(attention|mlp)$")], ...] = Field(
        min_length=1
    )
    """What is left out: ``<layer>.attention`` and ``<layer>.mlp``, layers counted from 0. The first
    and the last layer are kept."""

    @model_validator(mode="after")
    def _mask_names_parts_once(self) -> Self:
        if doubled := sorted({part for part in self.mask if self.mask.count(part) > 1}):
            raise ValueError(f"member {self.name!r}: mask: named twice: {', '.join(doubled)}")
        return self

    def check_layers(self, num_layers: int) -> None:
        """``ValueError``: the mask is none for a target of so many layers."""
        last = num_layers - 1
        for part in self.mask:
            layer = int(part.split(".")[0])
            if layer > last:
                raise ValueError(
                    f"member {self.name!r}: mask: {part!r}: the target's layers are 0 to {last}"
                )
            if layer in (0, last):
                rest = f"layers 1 to {last - 1} may be skipped" if last > 1 else "it has no others"
                raise ValueError(
                    f"member {self.name!r}: mask: {part!r}: the first and the last layer are kept; "
                    f"{rest}"
                )


class LoraMember(UserModel):
    """A LoRA adapter on a drafter: in its worker, over its weights, in one batch with it.

    Slots and KV cache are the drafter's, which all its adapters share.
    """

    kind: Literal["lora"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Literal["drafter"] = "drafter"
    of: str
    """A drafter of kind ``model`` or ``quantised`` in the fast engine."""
    adapter: str
    """A directory in PEFT's format (relative to the pool file)."""


MAX_AGREEING_MEMBERS = 7
"""Models whose agreements are stated: their joint law has a probability for each way to group
them."""


class Agreement(UserModel):
    """How often two members pick the same token after the same prefix."""

    draft: Name
    verifier: Name
    agreement: Share


def check_agreements(agreements: Sequence[Agreement], names: Sequence[str], field: str) -> None:
    """
    Args:
        names: of the members with a model, fastest first, the target last.
        field: where the agreements stand.

    Raises:
        ValueError: a name is wrong, a pair is none or is given twice, or a member has no pair.
    """
    pairs = [(a.draft, a.verifier) for a in agreements]
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(f"{field}: no member {name!r}{hint}; {one_of(names)}")
    for draft, verifier in pairs:
        if names.index(draft) >= names.index(verifier):
            raise ValueError(
                f"{field}: {draft!r} cannot draft for {verifier!r}: members are listed "
                "fastest first, and a member drafts for later ones"
            )
        if pairs.count((draft, verifier)) > 1:
            raise ValueError(f"{field}: {draft!r} with {verifier!r} is given twice")
    for name in names:
        if len(names) > 1 and not any(name in pair for pair in pairs):
            raise ValueError(f"{field}: member {name!r} has none; it needs one at least")


class SyntheticTexts(UserModel):
    """What the members of a synthetic pool write: picks that agree as stated, whatever the weights.

    Every position is alike, and independent of the others.
    """

    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Of all texts."""
    agreements: tuple[Agreement, ...] = ()
    """Pairs that are not given follow from those that are, and are as free as those leave them."""


Member = Annotated[
    ModelMember | LookupMember | QuantisedMember | LayerSkipMember | LoraMember,
    Field(discriminator="kind"),
]


class PoolConfig(UserModel):
    """A pool file: the members that chains are made of."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    tasks: str | None = None
    """A partition of the pool's traffic (relative to the pool file), which ``specrouter tasks fit``
    has written: requests are told apart by what their prompts are about. None: they are not."""
    exact: bool = True
    """Exact mode: fixed shapes, so that the text does not depend on the batch or the chain."""
    synthetic: SyntheticTexts | None = None
    """What members with engine ``synthetic`` write. They are among themselves: no real model picks
    the same."""
    members: tuple[Member, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_target_and_distinct_names(self) -> Self:
        targets = [m.name for m in self.members if m.role == "target"]
        if len(targets) != 1:
            raise ValueError(f"members: exactly one has role 'target', got {targets or 'none'}")
        names = [m.name for m in self.members]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"members: names must differ, these occur twice: {doubled}")
        return self

    @model_validator(mode="after")
    def _others_are_of_members(self) -> Self:
        models = {m.name: m for m in self.members if isinstance(m, ModelMember)}
        for member in self.members:
            if isinstance(member, LayerSkipMember):
                target = self.target
                if member.of != target.name or target.engine not in ("auto", "fast"):
                    raise ValueError(
                        f"member {member.name!r}: of: must be the target {target.name!r}, which "
                        f"must run in the fast engine, got {member.of!r}, engine={target.engine!r}"
                    )
            elif isinstance(member, QuantisedMember):
                if member.of not in models:
                    raise ValueError(
                        f"member {member.name!r}: of: no member {member.of!r} of kind 'model'; "
                        f"accepted: {', '.join(models)}"
                    )
                member.as_model(models[member.of])
        return self

    @model_validator(mode="after")
    def _adapters_are_of_drafters(self) -> Self:
        kinds = {member.name: member.kind for member in self.members}
        drafters = [m for m in self.models if m.role == "drafter"]
        fast = [m.name for m in drafters if m.engine not in ("general", "synthetic")]
        for member in self.members:
            if isinstance(member, LoraMember) and member.of not in fast:
                is_target = member.of == self.target.name
                what = "the target" if is_target else f"kind {kinds.get(member.of, 'none')}"
                raise ValueError(
                    f"member {member.name!r}: of: must be a drafter with weights of its own in the "
                    f"fast engine, got {member.of!r} ({what}); accepted: "
                    f"{', '.join(fast) or 'none'}"
                )
        return self

    @model_validator(mode="after")
    def _synthetic_members_are_among_themselves(self) -> Self:
        drafters = [member for member in self.models if member.role == "drafter"]
        models = [*drafters, self.target]
        for member in models:
            if (member.engine == "synthetic") != (self.synthetic is not None):
                raise ValueError(
                    f"member {member.name!r}: engine: either all models have engine 'synthetic', "
                    "and the pool says what they write (synthetic), or none has, got "
                    f"engine={member.engine!r}, synthetic={'given' if self.synthetic else 'none'}"
                )
        if self.synthetic is not None:
            if len(models) > MAX_AGREEING_MEMBERS:
                raise ValueError(
                    f"members: at most {MAX_AGREEING_MEMBERS} with engine 'synthetic', "
                    f"got {len(models)}"
                )
            names = [member.name for member in models]
            check_agreements(self.synthetic.agreements, names, "synthetic.agreements")
        return self

    @property
    def target(self) -> ModelMember:
        """The member whose output is promised."""
        return next(m for m in self.members if isinstance(m, ModelMember) and m.role == "target")

    @property
    def models(self) -> tuple[ModelMember, ...]:
        """Members with weights of their own, in the file's order; quantised ones in full."""
        models = {m.name: m for m in self.members if isinstance(m, ModelMember)}
        return tuple(
            member.as_model(models[member.of]) if isinstance(member, QuantisedMember) else member
            for member in self.members
            if isinstance(member, ModelMember | QuantisedMember)
        )

    def member(self, name: str) -> Member:
        """The member of that name; ``StopIteration`` never: callers check chains first."""
        return next(m for m in self.members if m.name == name)
