"""What is trained of a task's drafter, and how it is written: all, its layers, or an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transformers import LlamaForCausalLM

from specrouter_dist.align.config import AlignmentConfig, LoraSettings
from specrouter_dist.align.layers import freeze_ends, save_layers
from specrouter_dist.align.students import load_model, save_member
from specrouter_dist.config import LoraMember, ModelMember
from specrouter_dist.engine.factory import load_adapted, load_engine
from specrouter_dist.engine.interface import Engine
from specrouter_dist.pools.model_files import read_tensors


class Form(Protocol):
    """One task's drafter."""

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        ...

    @property
    def directory(self) -> Path:
        """Where it is written; not there before it is better than the base drafter."""
        ...

    def begin(self) -> LlamaForCausalLM:
        """The base drafter; the parameters that require a gradient are trained."""
        ...

    def save(self, student: LlamaForCausalLM) -> None:
        """Replaces what is in ``directory``."""
        ...

    def engine(self, base: ModelMember, num_ids: int) -> Engine:
        """What was written, as it is served in the place of ``base``."""
        ...


@dataclass(frozen=True)
class FullCopy:
    """A model of its own.

    Attributes:
        base: directory of the drafter to begin with.
        tokenizer_from: directory whose tokenizer lies beside the weights.
    """

    directory: Path
    base: Path
    tokenizer_from: Path
    name: str = "drafter"

    def begin(self) -> LlamaForCausalLM:
        """All of it is trained."""
        return load_model(self.base)

    def save(self, student: LlamaForCausalLM) -> None:
        """A checkpoint in bfloat16."""
        save_member(student, self.tokenizer_from, self.directory)

    def engine(self, base: ModelMember, num_ids: int) -> Engine:
        """The checkpoint."""
        return load_engine(base, self.directory, num_ids=num_ids, exact=False)


@dataclass(frozen=True)
class Layers(FullCopy):
    """A model whose embedding and head are the base drafter's, and stay where they are."""

    name: str = "layers"

    def begin(self) -> LlamaForCausalLM:
        """All but embedding and head is trained.

        Raises:
            ConfigError: the base's weights are not in safetensors, so that no index can name them.
        """
        read_tensors(self.base)
        model = super().begin()
        freeze_ends(model)
        return model

    def save(self, student: LlamaForCausalLM) -> None:
        """What is trained, in bfloat16, and an index that names the base's files for the rest."""
        save_layers(student, self.base, self.tokenizer_from, self.directory)


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter on the base drafter.

    Attributes:
        base: directory of the drafter.
        seed: of its first weights.
    """

    directory: Path
    base: Path
    settings: LoraSettings
    seed: int
    name: str = "adapter"

    def begin(self) -> LlamaForCausalLM:
        """Only the adapter is trained."""
        from specrouter_dist.align.adapters import add_adapter

        model = load_model(self.base)
        add_adapter(model, self.settings, self.seed)
        return model

    def save(self, student: LlamaForCausalLM) -> None:
        """In PEFT's format."""
        from specrouter_dist.align.adapters import save_adapter

        save_adapter(student, self.settings, self.directory)

    def engine(self, base: ModelMember, num_ids: int) -> Engine:
        """The base drafter through the adapter."""
        drafter = load_engine(base, self.base, num_ids=num_ids, exact=False)
        adapter = str(self.directory)
        member = LoraMember(kind="lora", name=self.name, of=base.name, adapter=adapter)
        return load_adapted(member, drafter, self.base)


def form_of(config: AlignmentConfig, task: str, *, base: Path, target: Path, out: Path) -> Form:
    """The form that ``config`` asks for.

    Args:
        config: of the alignment.
        task: whose drafter it is.
        base: directory of the drafter to begin with.
        target: directory of the target.
        out: gets the directory of what is trained.
    """
    if config.form == "lora":
        return LoraAdapter(out / f"{task}-lora", base, config.lora or LoraSettings(), config.seed)
    if config.form == "layers":
        return Layers(out / f"{task}-layers", base, target)
    return FullCopy(out / task, base, target)
