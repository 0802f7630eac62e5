"""The members of a pool."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from specrouter_dist.config.values import Finite, UserModel


class Dtype(StrEnum):
    """Number format of weights, activations and KV cache."""

    FP32 = "fp32"
    BF16 = "bf16"


class Quantization(StrEnum):
    """Number format of a drafter's weights in 8 bits; a scale per output goes with them."""

    INT8 = "int8"
    FP8 = "fp8"


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
    """CPUs that Ray reserves; as many threads at most has a forward on the CPU, at least one. A
    target that reserves none has as many of the node's as are fastest while no drafter drafts
    ahead of it."""
    resources: dict[str, Finite] = Field(default_factory=dict)
    """Further Ray resources, e.g. ``{"accelerator_type:L4": 0.001}``."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray node labels that the member's node must carry."""
    dtype: Dtype = Dtype.BF16
    quantization: Quantization | None = None
    """Weights rounded to 8 bits, for drafters, whose text nobody reads: half the bytes of bf16. On
    GPUs activations are rounded, too; ``fp8`` needs one from Ada on."""
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
        if self.quantization and self.role != "drafter":
            raise ValueError(
                f"member {self.name!r}: quantization is for members with role 'drafter', got "
                f"{self.quantization.value!r} with role={self.role!r}"
            )
        _check_format(self.name, self.quantization, self.device)
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


def _check_format(name: str, quantization: Quantization | None, device: str) -> None:
    if quantization is Quantization.FP8 and device == "cpu":
        raise ValueError(
            f"member {name!r}: quantization: 'fp8' is for GPUs, since CPUs take 17 to 46 times "
            "as long for it as for bf16; accepted on the CPU: 'int8'"
        )


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
    """A copy of another member with weights in 8 bits and a KV cache of its own."""

    kind: Literal["quantised"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Literal["drafter"] = "drafter"
    of: str
    """A member of kind ``model``, whose settings it has but for those that follow."""
    quantization: Quantization = Quantization.INT8
    kv_tokens: int | None = Field(default=None, ge=64)
    max_sessions: int | None = Field(default=None, ge=1)

    def as_model(self, of: ModelMember) -> ModelMember:
        """The member in full; ``ValueError``: ``of`` cannot be copied so."""
        if of.quantization is not None:
            raise ValueError(
                f"member {self.name!r}: of: a copy in 8 bits is made of a member without "
                f"quantization, got {of.name!r} with quantization={of.quantization.value!r}"
            )
        _check_format(self.name, self.quantization, of.device)
        return of.model_copy(
            update={
                "name": self.name,
                "role": self.role,
                "quantization": self.quantization,
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


Member = Annotated[
    ModelMember | LookupMember | QuantisedMember | LayerSkipMember | LoraMember,
    Field(discriminator="kind"),
]
