"""What README.md and docs/ show: blocks, their commands, and commands in the text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PROGRAMS = frozenset(
    {
        "curl",
        "docker",
        "git",
        "grpcurl",
        "helm",
        "hf",
        "jq",
        "kubectl",
        "make",
        "pip",
        "python",
        "ray",
        "schemathesis",
        "serve",
        "specrouter",
    }
)
"""What a command in the text begins with. In a block every line is one."""
_DRAWN = frozenset("─│┌└▶►◄")


@dataclass(frozen=True, slots=True)
class Example:
    """Something that a reader may copy.

    Attributes:
        language: of a block; empty: a shell's, or a command in the text.
    """

    file: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """To be found by."""
        return f"{self.file}:{self.line}"


def all_blocks() -> list[Example]:
    """Fenced or indented. Drawings are none."""
    found = [
        Example(file, token.map[0] + (2 if token.type == "fence" else 1), token.info, token.content)
        for file, token in _tokens()
        if token.type in ("fence", "code_block") and token.map is not None
    ]
    return [one for one in found if not _DRAWN & set(one.text)]


def blocks(language: str, file: str | None = None) -> list[Example]:
    """Those in that language, of one file or of all."""
    return [one for one in all_blocks() if one.language == language and file in (None, one.file)]


def commands() -> list[Example]:
    """Every command of the blocks, on one line, without its comment."""
    return [command for block in blocks("") for command in _commands_of(block)]


def mentions() -> list[Example]:
    """Commands in the text, between backticks."""
    found = []
    for file, token in _tokens():
        if token.type != "inline" or token.map is None:
            continue
        end = 0
        for child in token.children or ():
            words = child.content.split()
            if child.type != "code_inline" or len(words) < 2 or words[0] not in PROGRAMS:
                continue
            start = _place_of(words, token.content, end)
            line = token.map[0] + 1 + token.content.count("\n", 0, start)
            found.append(Example(file, line, "", child.content))
            end = start + 1
    return found


def _tokens() -> Iterator[tuple[str, Token]]:
    parser = MarkdownIt().enable("table")
    for path in FILES:
        for token in parser.parse(path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT).as_posix(), token


def _commands_of(block: Example) -> Iterator[Example]:
    begun, first = "", 0
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        begun, first = (f"{begun} {line.strip()}", first) if begun else (line.strip(), number)
        if begun.endswith("\\"):
            begun = begun[:-1].rstrip()
            continue
        if command := re.sub(r"(^|\s+)#\s.*", "", begun):
            yield Example(block.file, first, "", command)
        begun = ""


def _place_of(words: list[str], text: str, begin: int) -> int:
    """Where the words stand, which may be on two lines."""
    found = re.search(r"\s+".join(map(re.escape, words)), text[begin:])
    assert found is not None
    return begin + found.start()
