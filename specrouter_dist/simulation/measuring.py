"""What the router of a simulated pool is told before it starts.

A real pool profiles each member when it starts and lets every pair draft a few prompts; here the
times are those of the profile, and the pairs draft texts of sessions that no request has.
"""

from itertools import combinations, product

from specrouter_dist.routing.costs import MAX_DRAFT_TOKENS
from specrouter_dist.routing.observations import (
    SHORTEST_CONTEXT,
    ForwardKey,
    ForwardTimes,
    Observations,
    PairKey,
    Survival,
    WaitKey,
)
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.devices import MAX_DRAFTS
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import MemberProfile, Profile
from specrouter_dist.simulation.texts import Text
from specrouter_dist.speculation.runs import run_tokens
from specrouter_dist.speculation.tokens import TokenBuffer, common_prefix

CALIBRATION_TOKENS = 256
"""As much text as a pool that starts lets each pair draft."""
_BATCHES = (1, 4, 16, 32)
_CONTEXTS = (SHORTEST_CONTEXT, 2048)
_FIRST_SESSION = 1 << 40
"""Of the sessions that are measured on; requests count from 1."""
_HOP_REPORTS = 20
_HOP_ROUNDS = 50


def step_times(member: MemberProfile) -> Observations:
    """Its start-up profile: forwards of 1 to 17 rows per session, and blocks of 1 to 17 tokens, at
    a short and a long context."""
    observations = Observations(is_profile=True)
    for num_sessions, context in product(_BATCHES, _CONTEXTS):
        contexts = num_sessions * context
        for rows in range(1, MAX_DRAFT_TOKENS + 2):
            num_rows = rows * num_sessions
            key = ForwardKey(member.name, num_rows, num_sessions, context_tokens=context)
            observations.add_forward(key, member.step.us(num_rows, num_sessions, contexts))
        first_us = member.step.us(num_sessions, num_sessions, contexts)
        draft_us = member.draft_us(num_sessions, contexts)
        is_drafting = member.role == "drafter" or run_tokens(first_us) > 1
        for num_drafts in range(1, MAX_DRAFTS if is_drafting else 0):
            key = ForwardKey(
                member.name, num_sessions, num_sessions, num_drafts, context_tokens=context
            )
            observations.add_forward(key, first_us + num_drafts * draft_us)
    return observations


def survival(
    oracle: Oracle, draft: str, verifier: str, num_tokens: int, block_tokens: int
) -> Survival:
    """How blocks of ``block_tokens`` fare that ``draft`` drafts for ``verifier``, over so many
    tokens of the verifier's own stream."""
    text = oracle.text(_FIRST_SESSION, num_tokens + 2 * block_tokens + 2)
    found = Survival()
    stream = TokenBuffer([0])
    while len(stream) < num_tokens:
        num_accepted, new = _round(text, oracle, (draft, verifier), stream, block_tokens)
        found.add(block_tokens, num_accepted)
        stream.append(new)
    return found


def _round(
    text: Text, oracle: Oracle, pair: tuple[str, str], stream: TokenBuffer, block_tokens: int
) -> tuple[int, list[int]]:
    position = len(stream)
    prefix_hash = stream.hash_at(position)
    draft, verifier = (oracle.index[name] for name in pair)
    block = text.picks(draft, position, prefix_hash, (), block_tokens - 1)
    picks = text.picks(verifier, position, prefix_hash, block)
    num_accepted = common_prefix(block, picks)
    return num_accepted, list(picks[: num_accepted + 1])


def teach(
    router: Router, profile: Profile, oracle: Oracle, num_tokens: int = CALIBRATION_TOKENS
) -> None:
    """Tells the router all times, and what pairs agree on in ``num_tokens`` of text each."""
    for member in profile.members:
        router.observe(step_times(member), now_s=0.0)
    pairs = list(combinations((member.name for member in profile.members), 2))
    for draft, verifier in pairs:
        blocks = survival(oracle, draft, verifier, num_tokens, MAX_DRAFT_TOKENS)
        seen = Observations(pairs={PairKey(draft, verifier, GREEDY): blocks})
        router.observe(seen, now_s=0.0)
    # In several reports, as they come from a pool: a single one that is far from what was assumed
    # would pass for a hiccup.
    for _ in range(_HOP_REPORTS):
        for draft, verifier in pairs:
            router.observe(_waits(profile, draft, verifier), now_s=0.0)


def _waits(profile: Profile, draft: str, verifier: str) -> Observations:
    """A verifier's waits for blocks of one token."""
    wait_us = profile.member(draft).step.us(1, 1, SHORTEST_CONTEXT) + 2 * profile.one_way_us(
        draft, verifier
    )
    times = ForwardTimes(_HOP_ROUNDS, _HOP_ROUNDS * wait_us)
    return Observations(waits={WaitKey(draft, verifier, 1): times})


def new_router(profile: Profile) -> Router:
    """The router of the profile's pool, untaught."""
    devices = {member.name: profile.device_of(member) for member in profile.members}
    return Router(list(devices), {}, devices, hop_us=2 * profile.hop_us)
