"""How long steps of members take, how they slow each other, and what hops between them cost."""

from collections.abc import Mapping
from math import prod

from specrouter_dist.routing.decayed import DecayedMean
from specrouter_dist.routing.line import RECOVERED
from specrouter_dist.routing.observations import (
    SHORTEST_CONTEXT,
    ForwardKey,
    ForwardTimes,
    WaitKey,
)
from specrouter_dist.routing.state import (
    HopState,
    LatencyState,
    Level,
    SlowdownState,
    SurfaceState,
)
from specrouter_dist.routing.surface import Floats, Surface

FADED = 0.01
"""Share that is forgotten in a second of hops and the like that are not in use: nobody probes them,
and what was bad once may have become better."""
_DRAFTING_ROWS = 4
"""A step that draws several tokens feeds no more than the tail of its stream. One that draws none
behind its picks is a block of one token if it feeds one; of more it may be a verify."""


class LatencyTable:
    """Times by member: of a forward by its rows, and of drafting by the tokens drawn, each per
    session of the batch and at a context.

    A drafter pays once per block for being called, so the time of a block is no multiple of the
    time of a token.

    Args:
        hop_us: what a round pays for crossing from one worker to the next and back, until it has
            been observed.
    """

    def __init__(self, hop_us: float) -> None:
        self._forwards: dict[str, Surface] = {}
        self._drafting: dict[str, Surface] = {}
        # How much longer a verify takes while the next block is being drafted: cores of one
        # machine may share caches, memory and even arithmetic units.
        self._slowdowns: dict[tuple[str, str], DecayedMean] = {}
        self._slowdown_priors: dict[str, float] = {}
        """By member: it may have fewer threads while another drafts."""
        self._observed: set[str | tuple[str, str]] = set()
        """Members and pairs observed since :meth:`forget` was last called."""
        self._context_tokens = DecayedMean(SHORTEST_CONTEXT)
        self.hop_prior_us = hop_us
        """What a round pays for crossing between two members until it has been observed."""
        self._hops: dict[tuple[str, str], DecayedMean] = {}
        self._aside: dict[str, dict[tuple[str, str], Level]] = {}
        """Hops of members that have become slower, as they were before."""

    def profile(self, key: ForwardKey, times: ForwardTimes) -> None:
        """Takes a point of a member's start-up profile."""
        size, mean_us = key.num_rows // key.num_sessions, times.total_us / times.count
        if key.beside is not None:
            self._profile_slowdown(key, size, mean_us)
            return
        for surface, of in self._surfaces(key, size):
            surface.profile(int(of), key.num_sessions, key.context_tokens, mean_us)

    def _profile_slowdown(self, key: ForwardKey, size: int, mean_us: float) -> None:
        """Of a member whose forwards have been profiled."""
        alone_us = self._forwards[key.member].profiled_us(
            size, key.num_sessions, key.context_tokens
        )
        prior = self._slowdown_priors[key.member] = max(1.0, mean_us / alone_us)
        for (_, member), slowdown in self._slowdowns.items():
            if member == key.member:
                slowdown.expect(prior)

    def observe(self, key: ForwardKey, times: ForwardTimes) -> float:
        """Takes the times of steps since the last call. Returns by what factor the member's have
        changed: 1.0, or one far from it."""
        if not times.count:
            return 1.0
        self._observed.add(key.member)
        self._context_tokens.add(key.context_tokens, times.count)
        size = key.num_rows / key.num_sessions
        if key.beside is None:
            observed = self._surfaces(key, size)
            factor = prod(
                surface.observe(of, key.num_sessions, key.context_tokens, times)
                for surface, of in observed
            )
            self._on_change(key.member, factor)
            if len(observed) == 1:
                ((surface, _),) = observed
                for surfaces in (self._forwards, self._drafting):
                    if (other := surfaces.get(key.member)) not in (None, surface):
                        other.follow(surface, key.num_sessions)
            return factor
        alone_us = self.forward_us(
            key.member, size, key.num_sessions, context_tokens=key.context_tokens
        )
        if alone_us is not None:
            pair = key.beside, key.member
            self._observed.add(pair)
            slowdown = self._slowdowns.setdefault(pair, self._slowdown_of(key.member))
            slowdown.observe(max(1.0, times.total_us / times.count / alone_us), times.count)
        return 1.0

    def _slowdown_of(self, member: str, known: Level | None = None) -> DecayedMean:
        return DecayedMean(self._slowdown_priors.get(member, 1.0), known)

    def is_in_doubt(self, member: str) -> bool:
        """Whether what was observed last of the member is a hiccup or the beginning of a change."""
        known = (surfaces.get(member) for surfaces in (self._forwards, self._drafting))
        hops = (hop for pair, hop in self._hops.items() if member in pair)
        return any(each.is_in_doubt for each in (*known, *hops) if each)

    def _on_change(self, member: str, factor: float) -> None:
        """While a member is slower its hops look longer: when it is as fast again, what was known
        before holds again."""
        if factor > 1:
            # What is there already is older.
            self._aside.setdefault(member, self._hops_of(member))
        elif factor < 1:
            for pair, level in self._aside.pop(member, {}).items():
                self._hops[pair] = DecayedMean(self.hop_prior_us, level)

    def _hops_of(self, member: str) -> dict[tuple[str, str], Level]:
        return {pair: hop.level for pair, hop in self._hops.items() if member in pair}

    def _recover(self, member: str) -> None:
        """It is not in use: what was slow may be over."""
        for pair, level in self._aside.get(member, {}).items():
            if pair in self._hops:
                self._hops[pair].approach(level.value, RECOVERED)

    def forget(self) -> set[str]:
        """What was observed of what has not been since the last call counts for less: what was slow
        is tried again. To be called once a second; returns the members of which nothing was."""
        unknown = self._forwards.keys() - self._observed
        for member in unknown:
            self._recover(member)
        for surfaces in (self._forwards, self._drafting):
            for member in surfaces.keys() & unknown:
                surfaces[member].fade()
        for known in (self._slowdowns, self._hops):
            for pair, mean in known.items():
                if pair not in self._observed:
                    mean.drift(FADED)
        self._observed.clear()
        return unknown

    def observe_wait(self, key: WaitKey, times: ForwardTimes) -> float:
        """Takes waits for blocks: what they last beyond the drafting is the hop. Returns by what
        factor they have changed: 1.0, or one far from it."""
        block_us = self.drafting_us(key.draft, key.num_proposals)
        if block_us is None or not times.count:
            return 1.0
        pair = key.draft, key.verifier
        # A drafter that is waited for is in use, also before it says itself what that took.
        self._observed.update((pair, key.draft))
        hop = self._hops.setdefault(pair, DecayedMean(self.hop_prior_us))
        before, hop_us = hop.level, max(0.0, times.total_us / times.count - block_us)
        factor = hop.observe(hop_us, times.count, block_us)
        if factor > 1:
            # That a drafter is slower is first seen by who waits for it.
            self._aside.setdefault(key.draft, {**self._hops_of(key.draft), pair: before})
        elif factor < 1:
            self._aside.pop(key.draft, None)
        return factor

    def hop_us(self, draft: str, verifier: str) -> float:
        """What a round pays for crossing between the two, there and back."""
        hop = self._hops.get((draft, verifier))
        return self.hop_prior_us if hop is None else hop.value

    def observed_hops_us(self) -> dict[tuple[str, str], float]:
        """The same of all pairs of which it has been observed."""
        return {pair: hop.value for pair, hop in self._hops.items()}

    @property
    def context_tokens(self) -> float:
        """The context that is typical of present traffic: a decayed mean over observed steps."""
        return self._context_tokens.value

    def forward_us(
        self,
        member: str,
        num_rows: float,
        num_sessions: int = 1,
        *,
        context_tokens: float | None = None,
    ) -> float | None:
        """Time of a forward of ``num_rows`` for each of ``num_sessions``, in microseconds.

        ``context_tokens``: mean over the sessions; None: the typical. Returns None if the member
        is unknown.
        """
        surface = self._forwards.get(member)
        context = self.context_tokens if context_tokens is None else context_tokens
        return surface.at(num_rows, num_sessions, context) if surface else None

    def slowdown(self, beside: str, member: str) -> float:
        """By how many times the member's steps are slower while that drafter drafts."""
        known = self._slowdowns.get((beside, member))
        return (known or self._slowdown_of(member)).value

    def drafting_us(
        self,
        member: str,
        num_tokens: int,
        num_sessions: int = 1,
        *,
        context_tokens: float | None = None,
    ) -> float | None:
        """Time to draw ``num_tokens`` one after the other for each of ``num_sessions``; None if
        the member is unknown. ``context_tokens``: as for a forward."""
        surface = self._drafting.get(member)
        context = self.context_tokens if context_tokens is None else context_tokens
        return surface.at(num_tokens, num_sessions, context) if surface else None

    def knows_forwards(self, member: str) -> bool:
        """Whether any were profiled."""
        surface = self._forwards.get(member)
        return surface is not None and surface.largest_size > 0

    def knows_blocks(self, member: str, num_tokens: int) -> bool:
        """Whether blocks of that length, or longer ones, were profiled."""
        surface = self._drafting.get(member)
        return surface is not None and surface.largest_size >= num_tokens

    def forwards_us(self, member: str, sizes: range, num_sessions: int) -> Floats | None:
        """:meth:`forward_us` at each of these sizes, at the typical context."""
        surface = self._forwards.get(member)
        return surface.over(sizes, num_sessions, self.context_tokens) if surface else None

    def blocks_us(self, member: str, lengths: range, num_sessions: int) -> Floats | None:
        """:meth:`drafting_us` of each of these lengths, at the typical context."""
        surface = self._drafting.get(member)
        return surface.over(lengths, num_sessions, self.context_tokens) if surface else None

    def per_context_token_us(self, member: str) -> float | None:
        """What each further token of context adds to a forward of one row; None if the member is
        unknown."""
        surface = self._forwards.get(member)
        return surface.slope_us(1, 1) if surface else None

    def state(self) -> LatencyState:
        """Everything known."""
        return LatencyState(
            _surface_states(self._forwards),
            _surface_states(self._drafting),
            tuple(SlowdownState(*pair, mean.level) for pair, mean in self._slowdowns.items()),
            tuple(HopState(*pair, mean.level) for pair, mean in self._hops.items()),
            self._context_tokens.level,
        )

    def restore(self, state: LatencyState) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for member, batches in state.forwards:
            self._forwards.setdefault(member, Surface()).restore(batches)
        for member, batches in state.drafting:
            self._drafting.setdefault(member, Surface()).restore(batches)
        for beside, member, ratio in state.slowdowns:
            self._slowdowns[beside, member] = self._slowdown_of(member, ratio)
        for draft, verifier, level in state.hops:
            self._hops[draft, verifier] = DecayedMean(self.hop_prior_us, level)
        self._context_tokens = DecayedMean(SHORTEST_CONTEXT, state.context_tokens)

    def _surfaces(self, key: ForwardKey, size: float) -> list[tuple[Surface, float]]:
        surfaces: list[tuple[Surface, float]] = []
        if not key.num_drafts:
            surfaces.append((self._forwards.setdefault(key.member, Surface()), size))
        if size <= (_DRAFTING_ROWS if key.num_drafts else 1):
            drafting = self._drafting.setdefault(key.member, Surface())
            surfaces.append((drafting, 1.0 + key.num_drafts))
        return surfaces


def _surface_states(surfaces: Mapping[str, Surface]) -> tuple[SurfaceState, ...]:
    """A surface without a profile knows nothing."""
    states = (SurfaceState(member, surface.state()) for member, surface in surfaces.items())
    return tuple(state for state in states if state.batches)
