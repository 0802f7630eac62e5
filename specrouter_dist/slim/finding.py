"""A whole search: members are loaded and measured, masks are tried, and the best of each budget is
profiled itself and read along texts that the search has not seen."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.kv_cache import pages_for
from specrouter_dist.errors import ConfigError, RequestError
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.llama_configs import refusal
from specrouter_dist.pools.loading import Pool
from specrouter_dist.pools.model_files import read_json
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import Observations
from specrouter_dist.slim.masks import Mask, MaskSpace
from specrouter_dist.slim.members import Along, Members
from specrouter_dist.slim.scoring import SLIM, Score
from specrouter_dist.slim.search import search
from specrouter_dist.slim.settings import SearchSettings
from specrouter_dist.slim.texts import num_pages
from specrouter_dist.slim.times import (
    expected_profile,
    measure_masked,
    measure_parts,
    times_of,
)
from specrouter_dist.slim.trials import Times, Trials
from specrouter_dist.speculation.messages import TokenArray

_MOST_PROMPT_TOKENS = 1024
"""Longer prompts are left out."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best mask of one budget."""

    skip: float
    """Share of the layers that it leaves out."""
    mask: tuple[str, ...]
    searched: Score
    """On the texts of the search, with the times that its parts say."""
    held_out: Score
    """On others, with times of its own."""
    break_even: float | None
    """Agreement from which a member as fast as this one would pay; None: it never would."""

    @property
    def name(self) -> str:
        """As a member."""
        return _name(self.skip)


@dataclass(frozen=True, slots=True)
class Other:
    """A drafter of the pool."""

    name: str
    agreement: float
    """With the target, on held-out texts."""
    cost: float
    """Of a step of one token, relative to the target's."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of a search."""

    found: tuple[Found, ...]
    without_chain: tuple[str, ...]
    """The best chain of the others,"""
    without_us: float
    """and its time per token, on held-out texts."""
    others: tuple[Other, ...]
    trials: Mapping[Mask, Score]
    """All masks that were tried."""
    file: Path
    """Where they are kept."""
    target: str
    """Whose layers are left out."""
    times: Times
    """That the trials' scores rest on."""

    def member(self, one: Found) -> dict[str, object]:
        """As a pool file has it."""
        return {"name": one.name, "kind": "layer_skip", "of": self.target, "mask": list(one.mask)}

    def pays(self, one: Found) -> bool:
        """Whether the best chain through this mask is faster than the others' best."""
        return one.held_out.predicted_us < self.without_us


def check_target(pool: Pool, report: PoolReport, settings: SearchSettings) -> None:
    """Whether layers of the pool's target can be skipped, and so many of them.

    Raises:
        InputError: it runs in another engine than the fast one, or a budget cannot be.
    """
    target = pool.config.target
    config = read_json(pool.directories[target.name] / "config.json")
    is_fast = target.engine in ("auto", "fast")
    refused = refusal(config) if is_fast else f"engine: {target.engine!r}"
    if refused is not None:
        text = f"member {target.name!r}: layers are skipped by the fast engine; {refused}"
        raise ConfigError(text, field="pool")
    space = MaskSpace(report.member(target.name).shape.num_layers)
    for skip in settings.skip:
        space.num_parts(skip)


@dataclass(frozen=True, slots=True)
class SlimSearch:
    """What is searched; nothing is loaded yet.

    Attributes:
        pool: with all directories resolved; its target has been checked.
        report: of its checks.
        halves: prompts to search on, and prompts for the report.
        one_device: see :class:`Members`.
        hop_us: the same.
    """

    pool: Pool
    report: PoolReport
    settings: SearchSettings
    halves: tuple[Sequence[TokenArray], Sequence[TokenArray]]
    one_device: bool
    hop_us: float

    @property
    def key(self) -> str:
        """Equal for two searches exactly when a mask's score means the same in both."""
        settings = self.settings.model_dump(mode="json", exclude={"skip", "max_evaluations"})
        prompts = [list(prompt) for half in self.halves for prompt in half]
        content = [self.pool.config_hash, settings, self.one_device, self.hop_us, prompts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def run(self, directory: Path) -> Findings:
        """Searches; masks that were tried are kept in a file of ``directory``, and one that a
        search before has left there is gone on with."""
        num_layers = self.report.member(self.pool.config.target.name).shape.num_layers
        space = MaskSpace(num_layers)
        with Trials(directory / f"slim-{self.key}.jsonl", self.key) as trials:
            members = Members(
                self.pool,
                self.report,
                max_texts=max(map(len, self.halves)),
                one_device=self.one_device,
                hop_us=self.hop_us,
            )
            if trials.times is None:
                whole = members.profile()
                known = times_of(whole, members.neighbours.target)
                trials.begin(Times.of(whole, measure_parts(members.target, space, known)))
            best = self._search(space, members, trials)
            return self._report(space, members, trials, best)

    @property
    def _sampling(self) -> SamplingParams:
        return SamplingParams(
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
            seed=self.settings.seed,
        )

    def _search(self, space: MaskSpace, members: Members, trials: Trials) -> dict[float, Mask]:
        """The best mask of each budget."""
        times = trials.times
        assert times is not None
        with members.along(self.halves[0], self._sampling, times.profile) as along:
            return {skip: self._best(skip, space, along, trials) for skip in self.settings.skip}

    def _best(self, skip: float, space: MaskSpace, along: Along, trials: Trials) -> Mask:
        times, most = trials.times, self.settings.max_evaluations
        assert times is not None
        parts = times.of_parts
        with tqdm(total=most, desc=f"skip {skip:g}", unit="mask") as bar:

            def evaluate(mask: Mask) -> float:
                score = trials.scores.get(mask)
                if score is None:
                    score = along.score(mask, expected_profile(SLIM, parts, mask))
                    trials.add(mask, space.in_order(mask), score)
                bar.update()
                return score.predicted_us

            return search(
                space,
                space.num_parts(skip),
                evaluate,
                max_evaluations=most,
                seed=self.settings.seed,
            )[0]

    def _report(
        self, space: MaskSpace, members: Members, trials: Trials, best: Mapping[float, Mask]
    ) -> Findings:
        times = trials.times
        assert times is not None
        known = times_of(times.profile, members.neighbours.target)
        profiles = measure_masked(SLIM, members.target, list(best.values()), known)
        with members.along(self.halves[1], self._sampling, times.profile) as along:
            found = tuple(
                _found(space, along, own, skip, mask, trials.scores[mask])
                for own, (skip, mask) in zip(profiles, best.items(), strict=True)
            )
            without = along.scorer.without()
            others = tuple(
                Other(name, agreement, _cost(times, name, members.neighbours.target))
                for name, agreement in along.agreement.items()
            )
        return Findings(
            found=found,
            without_chain=without.chain,
            without_us=without.predicted_us,
            others=others,
            trials=dict(trials.scores),
            file=trials.file,
            target=members.neighbours.target,
            times=times,
        )


def _name(skip: float) -> str:
    return f"slim-{round(100 * skip)}"


def _named(score: Score, skip: float) -> Score:
    """With the member's name in its chain."""
    chain = (_name(skip) if name == SLIM else name for name in score.chain)
    return replace(score, chain=tuple(chain))


def _found(
    space: MaskSpace, along: Along, own: Observations, skip: float, mask: Mask, searched: Score
) -> Found:
    held_out = along.score(mask, own)
    return Found(
        skip,
        space.in_order(mask),
        _named(searched, skip),
        _named(held_out, skip),
        along.break_even(mask, own),
    )


def _cost(times: Times, name: str, target: str) -> float:
    latency = LatencyTable(0.0)
    for key, of in times.profile.forwards.items():
        latency.profile(key, of)
    own_us, target_us = (latency.forward_us(member, 1) for member in (name, target))
    assert own_us is not None and target_us is not None
    return own_us / target_us


def halves_of(
    pool: Pool, report: PoolReport, settings: SearchSettings, prompts: Sequence[TokenArray]
) -> tuple[Sequence[TokenArray], Sequence[TokenArray]]:
    """Of as many prompts as are there the first that are not too long, in two.

    Raises:
        RequestError: too few are, or the target's KV cache is too small for their texts.
    """
    room = min(member.context_tokens for member in report.members) - settings.max_tokens
    longest = min(_MOST_PROMPT_TOKENS, room)
    fitting = [prompt for prompt in prompts if len(prompt) <= longest]
    if len(fitting) < settings.num_prompts:
        raise RequestError(
            f"prompts: {len(fitting)} have at most {longest} tokens, which leave room for "
            f"{settings.max_tokens} more; num_prompts is {settings.num_prompts}",
            field="prompts",
        )
    chosen = fitting[: settings.num_prompts]
    halves = chosen[::2], chosen[1::2]
    needed = max(sum(num_pages(len(p), settings.max_tokens) for p in half) for half in halves)
    if needed > (held := pages_for(pool.config.target.kv_tokens)):
        raise RequestError(
            f"num_prompts: the texts of half of {settings.num_prompts} prompts take {needed} pages "
            f"of the target's KV cache, which has {held}; fewer or shorter ones, or a larger "
            "kv_tokens",
            field="num_prompts",
        )
    return halves
