"""A directory in which the documented commands run: a checkout, and what a reader brings."""

import json
import os
import shutil
import sys
from pathlib import Path

from specrouter_dist.pools.loading import POOLS_DIRECTORY
from tests.documented.examples import ROOT, blocks
from tests.task_prompts import mixed


def make_place(directory: Path) -> Path:
    """``directory``, filled. Examples of files are taken from the documentation itself."""
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            (directory / path.name).symlink_to(path)
    for name, language, file in (
        ("keys.txt", "text", "docs/serving.md"),
        ("service.yaml", "yaml", "docs/serving.md"),
        ("in.jsonl", "json", "docs/batch.md"),
    ):
        (block,) = blocks(language, file)
        (directory / name).write_text(block.text)
    slim, *_ = blocks("yaml", "docs/slim.md")
    (directory / "mypool.yaml").write_text(f"name: mypool\n{slim.text}")
    (directory / "tiny").symlink_to(POOLS_DIRECTORY / "tiny")
    write_prompts(directory, mixed(1)[:1])
    (directory / "DIR").mkdir()
    shutil.copy(directory / "in.jsonl", directory / "DIR")
    (directory / "data").mkdir()
    return directory


def write_prompts(directory: Path, prompts: list[str]) -> None:
    """A log of prompts."""
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    (directory / "prompts.jsonl").write_text(rows)


def filled_in(command: str, place: Path) -> str:
    """With this machine for the names that stand for a reader's own."""
    return command.replace("//HEAD:", "//127.0.0.1:").replace(" /data/", f" {place}/data/")


def environment() -> dict[str, str]:
    """In which the commands are those of this interpreter."""
    binaries = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([binaries, os.environ["PATH"]])}
