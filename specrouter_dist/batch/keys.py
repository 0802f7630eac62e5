"""What a row of the output is known by: the settings and the input row that it is of."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specrouter_dist.batch.lines import Line

_SETTINGS_CHARS = 12
_ROW_CHARS = 24


@dataclass(frozen=True, slots=True)
class Key:
    """Equal for two rows exactly when they are the same row of runs with the same settings."""

    settings: str
    row: str

    def __str__(self) -> str:
        """As it stands in ids."""
        return f"{self.settings}-{self.row}"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that decides what the outputs of a batch are, but for its rows."""

    pool_hash: str
    seed: int
    defaults: Mapping[str, Any]

    def digest(self) -> str:
        """Equal for equal settings."""
        content = [self.pool_hash, self.seed, dict(self.defaults)]
        encoded = json.dumps(content, sort_keys=True).encode()
        return hashlib.sha256(encoded).hexdigest()[:_SETTINGS_CHARS]


def key_of(line: Line, settings_digest: str) -> Key:
    """The key of the row in ``line``."""
    encoded = line.index.to_bytes(8, "little") + line.content
    return Key(settings_digest, hashlib.sha256(encoded).hexdigest()[:_ROW_CHARS])
