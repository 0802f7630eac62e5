"""What a folder of offline work was begun with: only the same may go on in it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specrouter_dist.errors import ConfigError


def go_on_with(made_of: Mapping[str, Any], out: Path) -> None:
    """Notes in ``out`` what it is made of, by name; once there is ``training``, finds it noted.

    Without that nothing is left to go on with: drafters alone are replaced, or removed.

    Raises:
        ConfigError: it was begun with something else; says with what.
    """
    file = out / "begun.json"
    if file.exists() and (out / "training").exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        other = [name for name, value in made_of.items() if before.get(name) != value]
        if other:
            raise ConfigError(
                f"--out: {str(out)!r} was begun with other {' and '.join(other)}; name another "
                "directory, or remove it",
                field="out",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(made_of, indent=2), encoding="utf-8")
    partial.replace(file)


def content_hash(file: Path) -> str:
    """Of a file of any size."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
