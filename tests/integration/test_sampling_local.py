"""Every way to draw a token: whatever drafts, the text is what the target alone writes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from specrouter_dist.cli.session import open_pool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.worker.local import LocalPool
from tests.pools import requests

pytestmark = pytest.mark.timeout(300)

CHAINS = (("small", "medium", "target"), ("lookup", "target"))
MAX_TOKENS = 24
NUM_PROMPTS = 2
Texts = list[list[int]]


@pytest.fixture(scope="module")
def backend(local_pool: LocalPool) -> PoolBackend:
    return PoolBackend(*open_pool("tiny", dtype=None), local_pool)


@pytest.fixture(scope="module")
def plain(backend: PoolBackend) -> Texts:
    """The greedy texts of the target alone."""
    return written(backend, ("target",), {})


def written(backend: PoolBackend, chain: Sequence[str], fields: dict[str, Any]) -> Texts:
    asked = [
        replace(one, sampling=one.sampling.model_copy(update={"ignore_eos": True, **fields}))
        for one in requests(chain, 0.0, MAX_TOKENS)[:NUM_PROMPTS]
    ]
    results = backend.generate(asked, concurrency=NUM_PROMPTS)
    return [result.token_ids.tolist() for result in results]


def middle_of(texts: Texts) -> int:
    """A token by which the first text would end in its middle."""
    return texts[0][MAX_TOKENS // 2]


WAYS: dict[str, Callable[[Texts], dict[str, Any]]] = {
    "repetition": lambda _: {"repetition_penalty": 1.3},
    "presence": lambda _: {"presence_penalty": 2.0},
    "frequency": lambda _: {"frequency_penalty": 1.2},
    "top_k": lambda _: {"top_k": 3, "temperature": 1.2},
    "top_p": lambda _: {"top_p": 0.6, "temperature": 1.2},
    "min_p": lambda _: {"min_p": 0.2, "temperature": 1.2},
    "logit_bias": lambda texts: {"logit_bias": {middle_of(texts): -100.0}},
    "stop_token_ids": lambda texts: {"stop_token_ids": (middle_of(texts),)},
    "min_tokens": lambda texts: {"stop_token_ids": (middle_of(texts),), "min_tokens": 20},
    "all": lambda texts: {
        "repetition_penalty": 1.1,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.3,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.02,
        "temperature": 0.9,
        "logit_bias": {middle_of(texts): -5.0},
        "stop_token_ids": (middle_of(texts),),
        "min_tokens": 12,
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_obeyed_and_every_chain_writes_what_the_target_alone_writes(
    backend: PoolBackend, plain: Texts, way: str
) -> None:
    fields = WAYS[way](plain)
    alone = written(backend, ("target",), fields)
    drawn = {"temperature": fields["temperature"]} if "temperature" in fields else {}
    without = written(backend, ("target",), drawn) if drawn else plain
    assert alone != without, "it makes no difference"
    for chain in CHAINS:
        assert written(backend, chain, fields) == alone, chain


def test_a_stop_id_is_the_last_token_and_min_tokens_put_it_off(
    backend: PoolBackend, plain: Texts
) -> None:
    chain = CHAINS[0]
    stop = middle_of(plain)
    stopped, *_ = written(backend, chain, {"stop_token_ids": (stop,)})
    assert stopped == plain[0][: plain[0].index(stop) + 1]
    longer, *_ = written(backend, chain, {"stop_token_ids": (stop,), "min_tokens": 20})
    assert len(longer) >= 20 and stop not in longer[:20]
