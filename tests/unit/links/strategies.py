"""Any message, for Hypothesis."""

from array import array

from hypothesis import strategies as st

from specrouter_dist.config import MAX_COUNT, EdgeKnobs, LossyParams, Plan, SamplingParams
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.frames import (
    Attach,
    Cancel,
    Detach,
    EdgeId,
    Failed,
    LevelCounts,
    Output,
    Proposals,
    Refused,
    Replan,
    Report,
    Settled,
    Submit,
    Truth,
)

uint64 = st.integers(0, (1 << 64) - 1)
token_ids = st.integers(0, (1 << 32) - 1)
tokens = st.lists(token_ids, max_size=80).map(lambda ids: array("I", ids))
# Lone surrogates are no text: they cannot be encoded.
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
edge_ids = st.builds(EdgeId, uint64, uint64, uint64)


@st.composite
def knobs(draw: st.DrawFn) -> EdgeKnobs:
    window = draw(st.integers(1, 1024))
    burst = draw(st.integers(1, window))
    patience = draw(st.integers(0, burst))
    patience_ms = draw(st.floats(1e-3, 1e6))
    return EdgeKnobs(window=window, burst=burst, patience=patience, patience_ms=patience_ms)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    chain = draw(st.lists(text, min_size=1, max_size=4, unique=True))
    edges = [draw(knobs()) for _ in chain[1:]]
    return Plan(number=draw(uint64), chain=tuple(chain), edges=tuple(edges))


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    max_tokens = draw(st.integers(1, MAX_COUNT))
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        temperature=draw(st.floats(0, 100)),
        top_p=draw(st.floats(1e-9, 1)),
        top_k=draw(st.integers(-1, MAX_COUNT)),
        seed=draw(uint64),
        presence_penalty=draw(st.floats(-2, 2)),
        logit_bias=draw(st.dictionaries(token_ids, st.floats(-100, 100), max_size=3)),
        stop=tuple(draw(st.lists(text.filter(bool), max_size=3))),
        stop_token_ids=tuple(draw(st.lists(token_ids, max_size=3))),
        ignore_eos=draw(st.booleans()),
        logprobs=draw(st.none() | st.integers(0, 20)),
        prompt_logprobs=draw(st.none() | st.integers(0, 20)),
    )


@st.composite
def attaches(draw: st.DrawFn) -> Attach:
    plan, stream = draw(plans()), draw(tokens)
    return Attach(
        edge=draw(edge_ids),
        version=draw(uint64),
        plan_number=plan.number,
        chain=plan.chain,
        edges=plan.edges,
        prompt_tokens=draw(st.integers(0, len(stream))),
        tokens=stream,
        sampling=draw(sampling_params()),
        end=draw(uint64),
        limit=draw(uint64),
        block_tokens=draw(uint64),
        outcomes=draw(uint64),
        task=draw(text),
        trace=draw(text),
    )


@st.composite
def settled(draw: st.DrawFn) -> Settled:
    text_tokens = draw(tokens.filter(lambda ids: len(ids) > 1))
    prompt_tokens = draw(st.integers(1, len(text_tokens) - 1))
    return Settled(draw(uint64), prompt_tokens, text_tokens, draw(sampling_params()), draw(text))


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | finite | text,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
_logprobs = st.builds(
    TokenLogprobs,
    token=token_ids,
    logprob=st.floats(allow_nan=False),
    top=st.lists(st.tuples(token_ids, st.floats(allow_nan=False)), max_size=3).map(tuple),
)

by_kind = {
    Proposals: st.builds(
        Proposals, edge_ids, uint64, uint64, uint64, uint64, tokens, st.booleans()
    ),
    Truth: st.builds(Truth, edge_ids, uint64, uint64, tokens, uint64),
    Attach: attaches(),
    Refused: st.builds(Refused, edge_ids, text),
    Replan: st.builds(Replan, edge_ids, plans()),
    Detach: st.builds(Detach, edge_ids, st.booleans()),
    Report: st.builds(
        Report,
        edge_ids,
        st.lists(
            st.builds(LevelCounts, text, text, uint64, uint64, uint64, uint64), max_size=3
        ).map(tuple),
        uint64,
    ),
    Submit: st.builds(
        Submit,
        uint64,
        tokens,
        sampling_params(),
        st.none() | plans(),
        tokens,
        text,
        text,
        text,
        st.sampled_from((None, LossyParams(), LossyParams(accept=0.5, max_unverified_share=0.25))),
    ),
    Settled: settled(),
    Cancel: st.builds(Cancel, uint64),
    Output: st.builds(
        Output,
        uint64,
        uint64,
        tokens,
        st.sampled_from([None, "stop", "length", "cancelled"]),
        st.lists(_logprobs, max_size=3).map(tuple),
        st.none() | st.dictionaries(text, _plain, max_size=3),
        st.lists(_logprobs, max_size=3).map(tuple),
    ),
    Failed: st.builds(Failed, uint64, text, text),
}
"""A strategy for each kind of message."""

messages = st.one_of(*by_kind.values())
