"""From a member's lines in the pool file to a loaded engine.

Engines are imported where one is loaded: this is imported by every process that holds a handle of a
worker, and torch takes seconds of a core.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from specrouter_dist.config import LayerSkipMember, LoraMember, ModelMember, SyntheticTexts
from specrouter_dist.engine.interface import Engine
from specrouter_dist.errors import EngineError
from specrouter_dist.pools.llama_configs import refusal
from specrouter_dist.pools.model_files import read_json

if TYPE_CHECKING:
    from specrouter_dist.engine.adapted import AdaptedEngine
    from specrouter_dist.engine.slim import SlimEngine


def load_engine(
    member: ModelMember,
    directory: Path,
    *,
    num_ids: int | None,
    exact: bool,
    synthetic: SyntheticTexts | None = None,
) -> Engine:
    """Loads a member's model.

    Args:
        member: its engine, device, dtype and sizes.
        directory: the model, in Hugging Face format.
        num_ids: only the first so many ids may be drawn; None: all.
        exact: whether the pool wants exact mode; only the target, whose picks count, runs in it.
        synthetic: what the members of a synthetic pool write.

    Raises:
        ConfigError: a file is missing or broken, or a size does not fit the model.
        EngineError: the engine asked for cannot run the model.
    """
    exact = exact and member.role == "target"
    if member.engine == "synthetic":
        if synthetic is None:
            raise EngineError(f"member {member.name!r}: synthetic: not said what it writes")
        from specrouter_dist.engine.synthetic import load_synthetic

        return load_synthetic(member, directory, synthetic, num_ids=num_ids, exact=exact)
    return _load_of(member, directory)(
        directory,
        dtype=member.dtype,
        device=member.device,
        context_tokens=member.context_tokens,
        kv_tokens=member.kv_tokens,
        max_sessions=member.max_sessions,
        num_ids=num_ids,
        exact=exact,
    )


def _load_of(member: ModelMember, directory: Path) -> Callable[..., Engine]:
    """How the engine that runs the member's model is loaded."""
    from specrouter_dist.engine.fast import FastEngine

    is_fast = member.engine == "fast"
    if member.engine == "auto":
        is_fast = refusal(read_json(directory / "config.json", "model")) is None
    if is_fast:
        return partial(
            FastEngine.load, quantization=member.quantization, prefix_cache=member.prefix_cache
        )
    if member.quantization is not None:
        raise EngineError(
            f"member {member.name!r}: quantization: only the fast engine has it, and {directory} "
            "is for the general one"
        )
    from specrouter_dist.engine.general import GeneralEngine

    return GeneralEngine.load


def load_slim(member: LayerSkipMember, target: Engine) -> "SlimEngine":
    """The slim member of a loaded target.

    Raises:
        EngineError: the target runs in another engine than the fast one.
    """
    from specrouter_dist.engine.fast import FastEngine
    from specrouter_dist.engine.slim import SlimEngine

    if not isinstance(target, FastEngine):
        raise EngineError(
            f"member {member.name!r}: layers are skipped by the fast engine, and {member.of!r} "
            "runs in the general one"
        )
    return SlimEngine(target, frozenset(member.mask), member.name)


def load_adapted(member: LoraMember, base: Engine, directory: Path) -> "AdaptedEngine":
    """The adapter of a member over a loaded drafter.

    Args:
        member: with the absolute directory of the adapter.
        base: the engine of the drafter.
        directory: of the drafter's model.

    Raises:
        ConfigError: a file is missing or broken, or the adapter does not fit.
        EngineError: the drafter runs in another engine than the fast one.
    """
    from specrouter_dist.engine.adapted import AdaptedEngine
    from specrouter_dist.engine.fast import FastEngine

    if not isinstance(base, FastEngine):
        raise EngineError(
            f"member {member.name!r}: adapters are for the fast engine, and {member.of!r} runs in "
            "the general one"
        )
    return AdaptedEngine.read(base, member.name, Path(member.adapter), directory)
