"""API keys: read from a file or a variable, held as digests, compared in constant time.

One key per line, then what is to be known of it::

    # name and limits are optional
    sk-5b1c4f0e93a84d52  name=alice max_running=4 tokens_per_minute=60000
    sk-c07d1e2c4b6f4a99  name=nightly

The variable SPECROUTER_API_KEYS holds such lines too; there a comma also ends a line. No message
and no log ever holds a key; a digest is all that leaves the process that has read it.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from specrouter_dist.errors import AuthenticationError, ConfigError, NotFoundError
from specrouter_dist.serving.settings import KeyLimits, ServiceSettings
from specrouter_dist.validation import validated

VARIABLE = "SPECROUTER_API_KEYS"
MIN_KEY_CHARS = 16
"""Shorter ones can be guessed."""
_KEY = re.compile(r"[!-~]+")
"""What can stand in a header, without blanks."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without the key."""

    name: str
    digest: bytes
    limits: KeyLimits


class ApiKeys:
    """All keys of a service.

    Args:
        keys: their names and digests differ; without any, every client is the same one.
    """

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)

    def find(self, secret: str | None) -> ApiKey:
        """The key that a client has shown. Takes as long whichever it is, and if it is none.

        Raises:
            AuthenticationError: none of them.
        """
        if not secret:
            raise AuthenticationError("no API key; send it as 'Authorization: Bearer KEY'")
        digest = _digest(secret)
        found: ApiKey | None = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise AuthenticationError("the API key is not one of this service's")
        return found


def load_keys(settings: ServiceSettings, environment: Mapping[str, str] | None = None) -> ApiKeys:
    """The keys of the settings' file and of the variable.

    Raises:
        NotFoundError: the file cannot be read.
        ConfigError: a line is wrong, or there is none; names the line and the field.
    """
    file = settings.api_keys_file
    lines = [] if file is None else _lines_of(file)
    value = (os.environ if environment is None else environment).get(VARIABLE)
    if value is not None:
        lines += [(f"{VARIABLE}, key {i}", part) for i, part in enumerate(_parts(value), start=1)]
    keys: list[ApiKey] = []
    for where, line in lines:
        key = _parse(where, line, len(keys) + 1, settings.key_limits)
        for other in keys:
            if key.digest == other.digest or key.name == other.name:
                what = "key" if key.digest == other.digest else f"name {key.name!r}"
                raise ConfigError(f"{where}: the {what} stands there twice")
        keys.append(key)
    if not keys and (file is not None or value is not None):
        # Who names a place for keys does not want an open service.
        raise ConfigError(f"{file or VARIABLE}: holds no key", field="api_keys_file")
    return ApiKeys(keys)


class _Attributes(KeyLimits):
    """What may follow a key on its line."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")


def _parse(where: str, line: str, number: int, default: KeyLimits) -> ApiKey:
    secret, *words = line.split()
    if len(secret) < MIN_KEY_CHARS or not _KEY.fullmatch(secret):
        raise ConfigError(
            f"{where}: a key is {MIN_KEY_CHARS} or more printable ASCII characters without "
            f"blanks, got {len(secret)} characters"
        )
    pairs = [word.partition("=") for word in words]
    if strays := [i for i, (_, equals, _) in enumerate(pairs, start=2) if not equals]:
        # The word may be a key that has lost its line's end.
        raise ConfigError(f"{where}: word {strays[0]}: what follows a key is field=value")
    names = [name for name, _, _ in pairs]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{where}: {doubled[0]}: stands there twice")
    given = {name: value for name, _, value in pairs}
    attributes = validated(_Attributes, given, error=ConfigError, where=where)
    limits = default.model_copy(update=attributes.model_dump(exclude={"name"}, exclude_none=True))
    return ApiKey(attributes.name or f"key-{number}", _digest(secret), limits)


def _lines_of(file: Path) -> list[tuple[str, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as problem:
        raise NotFoundError(
            f"api_keys_file: {file}: cannot be read: {problem.strerror}", field="api_keys_file"
        ) from None
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{file}: not UTF-8 at byte {problem.start}") from None
    lines = enumerate(text.splitlines(), start=1)
    return [(f"{file}, line {number}", line) for number, line in lines if _says_something(line)]


def _parts(value: str) -> list[str]:
    return [part for part in re.split(r"[,\n]", value) if _says_something(part)]


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def bearer(authorization: str | None) -> str | None:
    """The key in an ``Authorization`` header, or in gRPC's metadata of that name; None: none."""
    scheme, _, secret = (authorization or "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None
