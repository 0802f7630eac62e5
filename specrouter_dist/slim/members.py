"""The models of a pool, loaded to be asked what they pick, and masks of its target beside them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Engine
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, lookup_members, model_members
from specrouter_dist.routing.observations import Observations
from specrouter_dist.slim.masks import Mask
from specrouter_dist.slim.reading import read, read_masked
from specrouter_dist.slim.scoring import Neighbours, Score, Scorer
from specrouter_dist.slim.texts import Text, close_texts, write_texts
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.noise import derive_seed
from specrouter_dist.worker.profiling import profile


@dataclass(frozen=True, slots=True)
class Along:
    """Masks, along some texts."""

    target: FastEngine
    texts: Sequence[Text]
    scorer: Scorer
    agreement: dict[str, float]
    """Of each other drafter with the target."""

    def score(self, mask: Mask, times: Observations) -> Score:
        """Of a mask with these step times."""
        return self.scorer.score(times, read_masked(self.target, mask, self.texts))

    def break_even(self, mask: Mask, times: Observations) -> float | None:
        """See :meth:`Scorer.break_even`."""
        return self.scorer.break_even(times, read_masked(self.target, mask, self.texts))


class Members:
    """All models of a pool in this process.

    Args:
        pool: with all directories resolved; its slim members are left aside.
        report: of its checks.
        max_texts: that the target holds at a time.
        one_device: whether all of them will run in one process, one after the other; else each
            has a device of its own.
        hop_us: what a round pays for crossing between two devices.

    Raises:
        ConfigError, EngineError: a model cannot be loaded, or the target is none that the fast
            engine runs.
    """

    def __init__(
        self,
        pool: Pool,
        report: PoolReport,
        *,
        max_texts: int,
        one_device: bool,
        hop_us: float,
    ) -> None:
        members = model_members(pool)
        self._engines: dict[str, Engine] = {}
        for member in members:
            # A fork of each text is open beside it.
            most = max(member.max_sessions, 2 * max_texts)
            roomy = member.model_copy(update={"max_sessions": most})
            directory = pool.directories[member.name]
            self._engines[member.name] = load_engine(
                roomy, directory, num_ids=report.num_ids, exact=pool.config.exact
            )
        target = self._engines[pool.config.target.name]
        assert isinstance(target, FastEngine), "the target's files have been checked"
        self.target = target
        self._eos_ids = tuple(sorted(report.eos_ids))
        self.neighbours = Neighbours(
            tuple(member.name for member in members),
            {member.name: member for member in lookup_members(pool)},
            {member.name: "one" if one_device else member.name for member in members},
            0.0 if one_device else hop_us,
        )

    def profile(self) -> Observations:
        """Step times of all."""
        found = Observations(is_profile=True)
        for name, engine in self._engines.items():
            is_drafter = name != self.neighbours.target
            found.forwards |= profile(name, engine, drafts=is_drafter).forwards
        return found

    @contextmanager
    def along(
        self, prompts: Sequence[TokenArray], sampling: SamplingParams, known: Observations
    ) -> Iterator[Along]:
        """Texts of the target behind these prompts, read by all others; each has a seed of its
        own. ``known``: the members' step times."""
        stopping = sampling.model_copy(update={"stop_token_ids": self._eos_ids})
        samplings = [
            stopping.model_copy(update={"seed": derive_seed(sampling.seed, 0, i)})
            for i in range(len(prompts))
        ]
        texts = write_texts(self.target, prompts, samplings)
        try:
            *drafters, _ = self.neighbours.models
            readings = {name: read(self._engines[name], texts) for name in drafters}
            scorer = Scorer(self.neighbours, sampling, texts, known, readings)
            agreement = {name: scorer.agreement(picks) for name, picks in readings.items()}
            yield Along(self.target, texts, scorer, agreement)
        finally:
            close_texts(self.target, texts)
