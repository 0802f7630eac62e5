"""Where a router's snapshots are kept between its lives."""

import os
import tempfile
from pathlib import Path

from specrouter_dist.routing.snapshot import MAX_BYTES

STATE_DIR_VARIABLE = "SPECROUTER_STATE_DIR"
_DEFAULT_STATE_DIR = "~/.cache/specrouter"


def state_directory() -> Path:
    """``SPECROUTER_STATE_DIR``, or ``~/.cache/specrouter``."""
    return Path(os.environ.get(STATE_DIR_VARIABLE) or _DEFAULT_STATE_DIR).expanduser()


class StateFile:
    """The snapshot of one pool's router.

    Args:
        directory: made when something is written.
        pool_hash: names the file.
    """

    def __init__(self, directory: Path, pool_hash: str) -> None:
        self._path = directory / f"router-{pool_hash}.msgpack"

    def read(self) -> bytes | None:
        """The newest snapshot, if it is too long only as much as shows it; None: there is none.

        Raises:
            OSError: it cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        """Replaces the snapshot as a whole: a reader sees the old one or the new one.

        Raises:
            OSError: it cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        temporary = Path(name)
        try:
            with open(handle, "wb") as file:
                file.write(data)
            temporary.replace(self._path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def __str__(self) -> str:
        return str(self._path)
