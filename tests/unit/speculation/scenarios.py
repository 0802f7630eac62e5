"""What a protocol test runs: members, a request, plans; and how Hypothesis draws them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from hypothesis import strategies as st

from specrouter_dist.config import EdgeKnobs, SamplingParams
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

VOCAB_SIZE = 10
STOP_IDS = (3, 7)
CONTEXT_TOKENS = 512
LOOKUP_MATCH = (1, 3)
"""Shortest and longest match of the lookup members."""


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member of the pool. ``agreement`` None: a lookup member."""

    agreement: float | None
    seed: int = 0
    context_tokens: int = CONTEXT_TOKENS
    chunk_tokens: int = 128
    max_drafts: int = 1

    @property
    def is_lookup(self) -> bool:
        return self.agreement is None


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """Members above the target, drafter first, and the knobs below each of them."""

    members: tuple[int, ...]
    knobs: tuple[EdgeKnobs, ...]


@dataclass(frozen=True)
class Scenario:
    """One request to a pool. ``members[0]`` is the target."""

    members: tuple[MemberSpec, ...]
    plans: tuple[ChainPlan, ...]
    other_knobs: tuple[EdgeKnobs, ...]
    """What re-plans that leave the chain as it is choose from."""
    prompt: tuple[int, ...]
    sampling: SamplingParams
    num_resumed: int = 0
    """So much of the output is there when the request begins."""

    @property
    def end(self) -> int:
        """No position at or beyond it is wanted."""
        return len(self.prompt) + self.sampling.max_tokens

    @cached_property
    def truth(self) -> list[int]:
        """What the target alone makes of the prompt, prompt included."""
        num_tokens = self.sampling.max_tokens
        return [*self.prompt, *alone(self.members[0], self, self.prompt, num_tokens)]


@cache
def engine_of(agreement: float, seed: int) -> ToyEngine:
    """Engines are shared between runs: their tables are dear, their sessions are not."""
    return ToyEngine(
        VOCAB_SIZE,
        model_seed=seed,
        agreement=agreement,
        context_tokens=CONTEXT_TOKENS,
        max_sessions=1024,
    )


def alone(
    spec: MemberSpec, scenario: Scenario, prefix: Sequence[int], num_tokens: int
) -> TokenArray:
    """The next ``num_tokens`` (fewer at a stop id) of a model that nobody drafts for."""
    assert spec.agreement is not None
    engine = engine_of(spec.agreement, spec.seed)
    slot = engine.open(scenario.sampling, len(scenario.prompt), len(prefix) + num_tokens)
    tokens = array(TOKEN_TYPECODE, prefix)
    picks = engine.extend([Extension(slot, 0, tokens, 1, num_tokens - 1)])
    engine.close(slot)
    return picks[0].tokens


# -- how Hypothesis draws them -----------------------------------------------------------------


@st.composite
def edge_knobs(draw: st.DrawFn, lock_step: bool) -> EdgeKnobs:
    window = draw(st.integers(1, 8))
    burst = window if lock_step else draw(st.integers(1, window))
    patience = burst if lock_step else draw(st.integers(0, burst))
    match_tokens = draw(st.sampled_from((0, 0, 1, 2)))
    outcomes = draw(st.sampled_from((0, 1, 4))) if patience else 0
    return EdgeKnobs(
        window=window,
        burst=burst,
        patience=patience,
        match_tokens=match_tokens,
        outcomes=outcomes,
    )


@st.composite
def chain_plans(draw: st.DrawFn, members: tuple[MemberSpec, ...], lock_step: bool) -> ChainPlan:
    """Some of the members in any order; a lookup member can only be the first."""
    num_drafting = len(members) - 1
    length = draw(st.sampled_from((num_drafting, *range(num_drafting, -1, -1))))
    order = draw(st.permutations(range(1, len(members))))
    chain = sorted(order[:length], key=lambda i: not members[i].is_lookup)
    knobs = tuple(draw(edge_knobs(lock_step)) for _ in chain)
    return ChainPlan(tuple(chain), knobs)


AGREEMENTS = st.sampled_from((1.0, 0.9, 0.7, 0.4, 0.0))


@st.composite
def scenarios(draw: st.DrawFn, lock_step: bool | None = None) -> Scenario:
    prompt = tuple(token % VOCAB_SIZE for token in draw(st.binary(min_size=1, max_size=24)))
    contexts = st.sampled_from((CONTEXT_TOKENS, CONTEXT_TOKENS, len(prompt) + 12, len(prompt) - 1))
    chunks = st.sampled_from((128, 8, 3))
    members = [MemberSpec(1.0, 0, chunk_tokens=draw(chunks))]
    for seed in range(1, 1 + draw(st.sampled_from((2, 1, 3, 0)))):
        spec = MemberSpec(
            draw(AGREEMENTS), seed, draw(contexts), draw(chunks), draw(st.sampled_from((1, 3)))
        )
        members.append(spec)
    if len(members) == 1 or draw(st.booleans()):
        members.append(MemberSpec(None))
    if lock_step is None:
        lock_step = draw(st.booleans())
    plans = draw(st.lists(chain_plans(tuple(members), lock_step), min_size=1, max_size=4))
    other_knobs = draw(st.lists(edge_knobs(lock_step), min_size=1, max_size=4))
    sampling = SamplingParams(
        max_tokens=draw(st.sampled_from((60, 60, 40, 20, 2))),
        min_tokens=0,
        temperature=draw(st.sampled_from((0.0, 0.8))),
        seed=draw(st.integers(0, 7)),
        stop_token_ids=draw(st.sampled_from(((), STOP_IDS[:1], STOP_IDS))),
    )
    resumed = draw(st.sampled_from((0, 0, 5)))
    return Scenario(tuple(members), tuple(plans), tuple(other_knobs), prompt, sampling, resumed)
