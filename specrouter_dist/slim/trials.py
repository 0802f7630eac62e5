"""Masks that were tried, written down as they come: a search that is killed goes on.

A JSONL file. The first line says of which search and has the times that all scores rest on; each
further one is a mask and its score.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from specrouter_dist.config import UserModel
from specrouter_dist.errors import ConfigError
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.slim.masks import Mask
from specrouter_dist.slim.scoring import Score
from specrouter_dist.slim.times import PartTimes, StepTimes


class Times(UserModel):
    """Of the pool's members and of the target's parts, measured once."""

    members: tuple[tuple[ForwardKey, float], ...]
    """In microseconds."""
    parts: tuple[tuple[ForwardKey, float, float, float], ...]

    @classmethod
    def of(cls, members: Observations, parts: PartTimes) -> Self:
        """As measured."""
        return cls(
            members=tuple((key, times.total_us) for key, times in members.forwards.items()),
            parts=tuple(
                (key, step.whole_us, step.attention_us, step.mlp_us) for key, step in parts.items()
            ),
        )

    @property
    def profile(self) -> Observations:
        """Of the members."""
        forwards = {key: ForwardTimes(1, us) for key, us in self.members}
        return Observations(is_profile=True, forwards=forwards)

    @property
    def of_parts(self) -> PartTimes:
        """Of the target."""
        return {key: StepTimes(*times_us) for key, *times_us in self.parts}


class _Head(UserModel):
    search: str
    times: Times


class _Trial(UserModel):
    mask: tuple[str, ...]
    score: Score


class Trials:
    """The file of one search; a context, in which further trials are added.

    Args:
        file: made if it is missing.
        search: of what; a file of another search is refused.

    Raises:
        ConfigError: the file is of another search, or damaged other than at its end.
    """

    def __init__(self, file: Path, search: str) -> None:
        self.file = file
        self._search = search
        self.times: Times | None = None
        """None until :meth:`begin`."""
        self.scores: dict[Mask, Score] = {}
        self._num_bytes = 0
        """Of whole lines; what is behind them was cut off while it was written."""
        if file.exists():
            self._read()

    def _read(self) -> None:
        for number, line in enumerate(self.file.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                return
            try:
                if number == 1:
                    self._take_head(_Head.model_validate_json(line))
                else:
                    trial = _Trial.model_validate_json(line)
                    self.scores[frozenset(trial.mask)] = trial.score
            except ValidationError as problem:
                raise ConfigError(
                    f"{self.file}, line {number}: no line of a search; delete the file to begin "
                    f"anew ({problem.errors()[0]['msg']})"
                ) from None
            self._num_bytes += len(line)

    def _take_head(self, head: _Head) -> None:
        if head.search != self._search:
            raise ConfigError(f"{self.file}: of another search; delete the file to begin anew")
        self.times = head.times

    def begin(self, times: Times) -> None:
        """Writes the first line."""
        self.times = times
        self._append(_Head(search=self._search, times=times).model_dump(mode="json"))

    def add(self, mask: Mask, parts: Sequence[str], score: Score) -> None:
        """One more; ``parts``: of the mask, in order."""
        self.scores[mask] = score
        self._append({"mask": list(parts), "score": asdict(score)})

    def _append(self, content: Mapping[str, object]) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.file.open("ab")
        self._file.truncate(self._num_bytes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
