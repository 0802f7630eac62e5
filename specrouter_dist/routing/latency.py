"""How long steps of members take, how they slow each other, and what hops between them cost."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from specrouter_dist.routing.decayed import DecayedMean
from specrouter_dist.routing.line import RECOVERED
from specrouter_dist.routing.member_times import MemberTimes, Report
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

_Pair = tuple[str, str]


class LatencyTable:
    """Times by member, how much longer a verify takes beside drafting, and hops.

    Args:
        hop_us: what a round pays for crossing from one worker to the next and back, until it has
            been observed.
    """

    def __init__(self, hop_us: float) -> None:
        self._members: defaultdict[str, MemberTimes] = defaultdict(MemberTimes)
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
        mean_us = times.total_us / times.count
        if key.beside is None:
            self._members[key.member].profile(key, mean_us)
        else:
            self._profile_slowdown(key, mean_us)

    def _profile_slowdown(self, key: ForwardKey, mean_us: float) -> None:
        size = key.num_rows / key.num_sessions
        alone_us = self._members[key.member].forwards.profiled_us(
            size, key.num_sessions, key.context_tokens
        )
        if not alone_us:
            return  # There is nothing to compare with: its forwards were not profiled.
        prior = self._slowdown_priors[key.member] = max(1.0, mean_us / alone_us)
        for (_, member), slowdown in self._slowdowns.items():
            if member == key.member:
                slowdown.expect(prior)

    def observe(self, forwards: Iterable[tuple[ForwardKey, ForwardTimes]]) -> dict[str, float]:
        """Takes times of steps since the last report. Returns by what factor those of members have
        changed, of those of which they have."""
        reports: defaultdict[str, list[tuple[ForwardKey, ForwardTimes]]] = defaultdict(list)
        beside: defaultdict[_Pair, list[tuple[ForwardKey, ForwardTimes]]] = defaultdict(list)
        for key, times in forwards:
            self._observed.add(key.member)
            self._context_tokens.add(key.context_tokens, times.count)
            if key.beside is None:
                reports[key.member].append((key, times))
            else:
                beside[key.beside, key.member].append((key, times))
        factors = {member: self._members[member].observe(of) for member, of in reports.items()}
        # What is slow alone, too, is no slowdown by the drafter.
        for pair, report in beside.items():
            self._observe_slowdown(pair, report)
        for member, factor in factors.items():
            self._on_change(member, factor)
        return {member: factor for member, factor in factors.items() if factor != 1.0}

    def _observe_slowdown(self, pair: _Pair, report: Report) -> None:
        expected_us, total_us, count = 0.0, 0.0, 0
        for key, times in report:
            alone_us = self.forward_us(
                key.member,
                key.num_rows / key.num_sessions,
                key.num_sessions,
                context_tokens=key.context_tokens,
            )
            if alone_us is None:
                return
            expected_us += times.count * alone_us
            total_us, count = total_us + times.total_us, count + times.count
        self._observed.add(pair)
        slowdown = self._slowdowns.setdefault(pair, self._slowdown_of(pair[1]))
        slowdown.observe(max(1.0, total_us / expected_us), count)

    def _slowdown_of(self, member: str, known: Level | None = None) -> DecayedMean:
        return DecayedMean(self._slowdown_priors.get(member, 1.0), known)

    def is_in_doubt(self, member: str) -> bool:
        """Whether what was observed last of the member is a hiccup or the beginning of a change."""
        hops = (hop for pair, hop in self._hops.items() if member in pair)
        known = self._members.get(member)
        return any(hop.is_in_doubt for hop in hops) or bool(known and known.is_in_doubt)

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
        unknown = self._members.keys() - self._observed
        for member in unknown:
            self._recover(member)
            self._members[member].fade()
        for known in (self._slowdowns, self._hops):
            for pair, mean in known.items():
                if pair not in self._observed:
                    mean.drift(FADED)
        self._observed.clear()
        return unknown

    def observe_waits(self, waits: Iterable[tuple[WaitKey, ForwardTimes]]) -> dict[_Pair, float]:
        """Takes a worker's waits for blocks since its last report: what they last beyond the
        drafting is the hop. Returns by what factor waits have changed, of pairs of which they
        have."""
        reports: defaultdict[_Pair, list[tuple[float, ForwardTimes]]] = defaultdict(list)
        for key, times in waits:
            block_us = self.drafting_us(key.draft, key.num_proposals)
            if block_us is not None:
                reports[key.draft, key.verifier].append((block_us, times))
        factors = {pair: self._observe_hop(pair, report) for pair, report in reports.items()}
        return {pair: factor for pair, factor in factors.items() if factor != 1.0}

    def _observe_hop(self, pair: _Pair, report: Sequence[tuple[float, ForwardTimes]]) -> float:
        """``report``: waits, each with what the drafting of such a block takes."""
        draft, _ = pair
        # A drafter that is waited for is in use, also before it says itself what that took.
        self._observed.update((pair, draft))
        count = sum(times.count for _, times in report)
        block_us = sum(times.count * us for us, times in report) / count
        wait_us = sum(times.total_us for _, times in report) / count
        hop = self._hops.setdefault(pair, DecayedMean(self.hop_prior_us))
        before = hop.level
        factor = hop.observe(max(0.0, wait_us - block_us), count, block_us)
        if factor > 1:
            # That a drafter is slower is first seen by who waits for it.
            self._aside.setdefault(draft, {**self._hops_of(draft), pair: before})
        elif factor < 1:
            self._aside.pop(draft, None)
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
        known = self._members.get(member)
        context = self.context_tokens if context_tokens is None else context_tokens
        return known.forwards.at(num_rows, num_sessions, context) if known else None

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
        known = self._members.get(member)
        context = self.context_tokens if context_tokens is None else context_tokens
        return known.drafting.at(num_tokens, num_sessions, context) if known else None

    def knows_forwards(self, member: str) -> bool:
        """Whether any were profiled."""
        known = self._members.get(member)
        return known is not None and known.forwards.largest_size > 0

    def knows_blocks(self, member: str, num_tokens: int) -> bool:
        """Whether blocks of that length, or longer ones, were profiled."""
        known = self._members.get(member)
        return known is not None and known.drafting.largest_size >= num_tokens

    def forwards_us(self, member: str, sizes: range, num_sessions: int) -> Floats | None:
        """:meth:`forward_us` at each of these sizes, at the typical context."""
        known = self._members.get(member)
        return known.forwards.over(sizes, num_sessions, self.context_tokens) if known else None

    def blocks_us(self, member: str, lengths: range, num_sessions: int) -> Floats | None:
        """:meth:`drafting_us` of each of these lengths, at the typical context."""
        known = self._members.get(member)
        return known.drafting.over(lengths, num_sessions, self.context_tokens) if known else None

    def per_context_token_us(self, member: str) -> float | None:
        """What each further token of context adds to a forward of one row; None if the member is
        unknown."""
        known = self._members.get(member)
        return known.forwards.slope_us(1, 1) if known else None

    def state(self) -> LatencyState:
        """Everything known."""
        return LatencyState(
            _states((member, known.forwards) for member, known in self._members.items()),
            _states((member, known.drafting) for member, known in self._members.items()),
            tuple(SlowdownState(*pair, mean.level) for pair, mean in self._slowdowns.items()),
            tuple(HopState(*pair, mean.level) for pair, mean in self._hops.items()),
            self._context_tokens.level,
        )

    def restore(self, state: LatencyState) -> None:
        """Takes what an earlier table knew in place of what is here of the same."""
        for member, batches in state.forwards:
            self._members[member].forwards.restore(batches)
        for member, batches in state.drafting:
            self._members[member].drafting.restore(batches)
        for beside, member, ratio in state.slowdowns:
            self._slowdowns[beside, member] = self._slowdown_of(member, ratio)
        for draft, verifier, level in state.hops:
            self._hops[draft, verifier] = DecayedMean(self.hop_prior_us, level)
        self._context_tokens = DecayedMean(SHORTEST_CONTEXT, state.context_tokens)


def _states(surfaces: Iterable[tuple[str, Surface]]) -> tuple[SurfaceState, ...]:
    """A surface without a profile knows nothing."""
    states = (SurfaceState(member, surface.state()) for member, surface in surfaces)
    return tuple(state for state in states if state.batches)
