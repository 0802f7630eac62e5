"""What a user may set when training the embedded pool."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from specrouter_dist.pools.adapter_files import PROJECTIONS

Stage = Literal["target", "samples", "medium", "small"]
STAGES: tuple[Stage, ...] = ("target", "samples", "medium", "small")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(_Frozen):
    """AdamW with a linear warm-up and a cosine to zero."""

    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    steps: int = Field(default=4000, gt=0)
    minutes: float | None = Field(
        default=None, gt=0, description="end after this much training time, if sooner"
    )
    tokens_per_batch: int = Field(default=2048, gt=0)
    checkpoint_every: int = Field(
        default=200, gt=0, description="steps between checkpoints and dev evaluations"
    )


class TargetConfig(_Frozen):
    """Shape and training of the target."""

    layers: int = Field(default=10, gt=0)
    width: int = Field(default=288, gt=0)
    heads: int = Field(default=6, gt=0)
    intermediate_size: int = Field(default=768, gt=0)
    sequence_length: int = Field(default=256, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1.5e-3, steps=8000, tokens_per_batch=4096
    )
    patience: int = Field(
        default=5, gt=0, description="evaluations without a better dev loss before stopping"
    )


class SamplesConfig(_Frozen):
    """What the drafters learn from."""

    shards: int = Field(
        default=40, gt=0, description="of 2,048 rows each; every fourth is training text"
    )
    max_new_tokens: int = Field(default=128, gt=0)


class DistillationConfig(_Frozen):
    """Training a drafter towards its target."""

    kl_share: float = Field(
        default=0.4, ge=0, le=1, description="share of the steps on KL; the rest on total variation"
    )
    temperatures: tuple[float, ...] = (1.0, 0.6, 0.3)
    optimizer: OptimizerConfig = OptimizerConfig()


class StudentConfig(DistillationConfig):
    """A drafter cut from the target, and its distillation."""

    from_layers: tuple[int, ...]
    intermediate_size: int = Field(gt=0)


class LoraSettings(_Frozen):
    """A LoRA adapter: ``W x + (alpha / rank) B A x`` for some of the projections ``W``."""

    rank: int = Field(default=16, gt=0)
    alpha: float = Field(default=32, gt=0, allow_inf_nan=False)
    projections: tuple[str, ...] = Field(default=PROJECTIONS, min_length=1)

    @model_validator(mode="after")
    def _projections_are_known(self) -> Self:
        names = self.projections
        if wrong := sorted({n for n in names if n not in PROJECTIONS or names.count(n) > 1}):
            raise ValueError(
                f"projections: accepted, once each: {', '.join(PROJECTIONS)}; "
                f"got {', '.join(wrong)}"
            )
        return self


class AlignmentConfig(_Frozen):
    """Drafters for tasks, each trained from the same base drafter; every task alike."""

    form: Literal["full", "layers", "lora"] = Field(
        default="full",
        description="a copy of the base drafter, one that has the base's embedding and head, or an "
        "adapter on it",
    )
    lora: LoraSettings | None = Field(
        default=None, description="of adapters; with form lora, None stands for its defaults"
    )
    max_prompts: int = Field(
        default=20_000, gt=0, description="of a longer log so many distinct ones are drawn"
    )
    shards: int = Field(default=6, gt=0, description="of samples of the target, for each task")
    prompts_per_shard: int = Field(default=1024, gt=0)
    max_new_tokens: int = Field(default=128, gt=0)
    held_out_prompts: int = Field(
        default=64, gt=0, description="of each task, to stop the training; as many to report on"
    )
    patience: int = Field(
        default=6, gt=0, description="evaluations without better agreement before stopping"
    )
    distillation: DistillationConfig = DistillationConfig(
        kl_share=0.1,
        optimizer=OptimizerConfig(learning_rate=5e-4, steps=2400, checkpoint_every=100),
    )
    seed: int = 0
    threads: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _adapters_have_settings(self) -> Self:
        if self.lora is not None and self.form != "lora":
            raise ValueError(f"lora: settings of adapters go with form 'lora', got {self.form!r}")
        return self


class PoolTrainingConfig(_Frozen):
    """The whole recipe; every stage can be run alone."""

    stages: tuple[Stage, ...] = STAGES
    init_from: Path | None = Field(
        default=None,
        description="a pool folder whose target, and whose drafters if it has any, are the start",
    )
    chat_fraction: float = Field(
        default=0.3, ge=0, le=1, description="share of the rows shown in chat form"
    )
    seed: int = 0
    threads: int | None = Field(default=None, gt=0)
    dev_prompts_per_task: int = Field(default=25, gt=0)
    target: TargetConfig = TargetConfig()
    samples: SamplesConfig = SamplesConfig()
    medium: StudentConfig = StudentConfig(from_layers=(0, 5, 9), intermediate_size=768)
    small: StudentConfig = StudentConfig(
        from_layers=(0,),
        intermediate_size=384,
        optimizer=OptimizerConfig(learning_rate=1.5e-3),
    )
