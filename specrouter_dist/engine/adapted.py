"""A LoRA adapter as an engine: sessions of its own over its base's weights, slots and KV cache.

Any of the engines of one base may extend sessions of all of them, in one batch: whose a session is
was settled when it was opened. Keys and values differ from adapter to adapter, so a session finds
only pages that one of the same adapter has published.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self

from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.lora import Adapter
from specrouter_dist.engine.lora_loading import load_adapter


class AdaptedEngine(FastEngine):
    """The engine of ``base``; sessions that it opens run through ``adapter``."""

    def __init__(self, base: FastEngine, adapter: Adapter) -> None:
        info = replace(
            base.info,
            num_parameters=adapter.num_parameters,
            weight_bytes=adapter.num_bytes,
            kv_bytes=0,
        )
        super().__init__(base._decoder, base._sessions, base._sampler, info)
        self._adapter = adapter

    @classmethod
    def read(cls, base: FastEngine, name: str, directory: Path, base_directory: Path) -> Self:
        """Reads an adapter in PEFT's format.

        Args:
            base: the engine of the model that it adapts.
            name: of the member.
            directory: of the adapter.
            base_directory: of the model.

        Raises:
            ConfigError: a file is missing or broken, or the adapter does not fit.
        """
        return cls(base, load_adapter(name, directory, base_directory, base._decoder))
