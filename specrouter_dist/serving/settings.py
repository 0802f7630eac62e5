"""What whoever runs the service may set: keys, limits, deadlines, origins.

The same fields stand in a file for ``specrouter serve --settings``, under ``args: service:`` of a
Serve config file, and in code. Each replica of the ingress counts for itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from specrouter_dist.config import Finite, UserModel
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.yaml_files import read_yaml
from specrouter_dist.validation import validated

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Longer bodies are refused before they are read to the end."""


class KeyLimits(UserModel):
    """What one API key may have. A request for ``n`` choices counts as ``n``; None: no limit."""

    max_running: int | None = Field(default=None, ge=1)
    """Choices at a time."""
    max_queued: int | None = Field(default=None, ge=0)
    """Choices that wait for that; one more is refused."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """So many at once, then evenly."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and output. What ``max_tokens`` allows is taken at the beginning; what was not used is
    given back at the end."""


class ServiceSettings(UserModel):
    """Of one service."""

    api_keys_file: Path | None = None
    """One key per line (serving/api_keys.py), besides those of SPECROUTER_API_KEYS. Without any,
    whoever reaches the service may use it."""
    key_limits: KeyLimits = KeyLimits()
    """Of every key that has none of its own; without keys, of all clients together."""
    max_running: int | None = Field(default=256, ge=1)
    """Choices of all keys that the pool has at a time; None: no limit. A pool whose target has more
    sessions wants more."""
    max_queued: int = Field(default=1024, ge=0)
    """Choices of all keys that wait for that; one more is refused."""
    max_pending_bytes: int | None = Field(default=4 * MAX_BODY_BYTES, ge=MAX_BODY_BYTES)
    """Bytes of requests that are read, checked and tokenized at a time, all of it before they are
    let in or wait; a request with one more is refused. Checked, they take many times as much."""
    timeout_s: Finite | None = Field(default=600.0, gt=0.0)
    """How long a request may take that does not say, waiting included; None: for ever. OpenAI's
    clients wait as long."""
    max_timeout_s: Finite = Field(default=3600.0, gt=0.0)
    """Most that a request may say."""
    body_timeout_s: Finite = Field(default=30.0, gt=0.0)
    """How long the body of a request may take to come."""
    stall_timeout_s: Finite = Field(default=30.0, gt=0.0)
    """How long a client may read nothing of its stream before the request is cancelled."""
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = ()
    """Whose web pages may call the service, e.g. ``https://example.org``; ``*``: all. Browsers send
    origins without a slash at the end."""
    allow_lossy: bool = True
    """Whether a request may ask for tokens that the target has not verified (docs/slim.md)."""


UNLIMITED = ServiceSettings(max_running=None, max_pending_bytes=None, timeout_s=None)
"""For a program's own requests."""


def read_settings(file: Path | None, given: Mapping[str, Any]) -> ServiceSettings:
    """The settings of a YAML file; what is ``given`` and not None replaces the file's.

    Raises:
        NotFoundError: the file cannot be read.
        ConfigError: one line with the file, the field and what would be right.
    """
    values = read_yaml(file) if file else {}
    values |= {name: value for name, value in given.items() if value is not None}
    return validated(ServiceSettings, values, error=ConfigError, where=str(file) if file else "")
