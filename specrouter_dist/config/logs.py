"""How processes write their logs."""

from enum import StrEnum


class LogFormat(StrEnum):
    """How processes write their logs."""

    TEXT = "text"
    """Warnings, as Python writes them."""
    JSON = "json"
    """One object a line, from INFO on: every request too."""


DEFAULT_LOG_FORMAT = LogFormat.TEXT
