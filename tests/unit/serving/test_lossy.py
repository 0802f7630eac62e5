"""Requests for tokens that the target has not verified: who may ask, and what the answer says."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from google.protobuf.json_format import ParseDict

from specrouter_dist.batch.keys import Settings
from specrouter_dist.batch.lines import Line
from specrouter_dist.config import LayerSkipMember, LossyParams, SamplingParams
from specrouter_dist.errors import RequestError
from specrouter_dist.links.control import Submit
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.pools.lossy import check_lossy
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.batch_runner import BatchRunner, Outcome
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.settings import ServiceSettings, read_settings
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.calls import chat, complete, error
from tests.unit.serving.conftest import ScriptedRouter
from tests.unit.serving.scripted import STATS, Message, ScriptedClient, plain_answer
from tests.unit.serving.test_grpc_service import Context
from tests.unit.serving.test_metrics import samples

CHAIN = ["small", "slim", "target"]
LOSSY = {"chain": CHAIN, "lossy": {"accept": 0.7, "escalate": 0.2}}
TIERS: dict[str, float] = {
    "accepted": 3,
    "slim": 1,
    "escalated": 2,
    "num_escalations": 1,
    "num_confirmed": 0,
    "num_checked": 3,
    "num_disagreements": 1,
    "overshoot_mean": 0.125,
    "overshoot_p99": 0.25,
    "overshoot_max": 0.25,
}


def lossy_answer(submit: Submit) -> Iterable[Message]:
    """As the target's worker answers: with tiers if it was asked for."""
    for message in plain_answer(submit):
        is_last = submit.lossy is not None and message.finish_reason is not None  # type: ignore[union-attr]
        stats = STATS | {"chain": tuple(CHAIN), "tiers": TIERS}
        yield replace(message, stats=stats) if is_last else message


@pytest.fixture(scope="session")
def pool(pool: Pool) -> Pool:
    """With two slim members."""
    slims = (
        LayerSkipMember(kind="layer_skip", name=name, of="target", mask=("4.mlp",))
        for name in ("slim", "slimmer")
    )
    config = pool.config.model_copy(update={"members": (*pool.config.members, *slims)})
    return replace(pool, config=config)


@pytest.fixture
def client() -> Iterator[ScriptedClient]:
    scripted = ScriptedClient(lossy_answer)
    yield scripted
    scripted.close()


def test_the_request_arrives_at_the_target(app: FastAPI, client: ScriptedClient) -> None:
    assert complete(app, speculative=LOSSY, n=2).status == 200
    for submit in client.submits:
        assert submit.lossy is not None
        assert submit.lossy.model_dump() == LossyParams(accept=0.7, escalate=0.2).model_dump()
        assert submit.plan is not None
        assert submit.plan.chain == tuple(CHAIN)


@pytest.mark.parametrize("ask", [complete, chat])
def test_the_answer_says_so(app: FastAPI, ask: Any) -> None:
    answer = ask(app, speculative=LOSSY).json()
    (choice,) = answer["choices"]
    assert (answer["lossy"], choice["lossy"], choice["tiers"]) == (True, True, TIERS)
    assert answer["metrics"]["chain"] == CHAIN


@pytest.mark.parametrize("ask", [complete, chat])
def test_every_event_of_a_stream_says_so(app: FastAPI, ask: Any) -> None:
    reply = ask(app, speculative=LOSSY, stream=True)
    events = [json.loads(line[6:]) for line in reply.body.decode().split("\n\n")[:-2]]
    assert len(events) == 3
    assert all(event["lossy"] for event in events)
    assert [event["choices"][0].get("tiers") for event in events] == [None, None, TIERS]


@pytest.mark.parametrize("speculative", [None, True, False, {"chain": CHAIN}])
def test_whoever_does_not_ask_gets_none(
    app: FastAPI, client: ScriptedClient, speculative: Any
) -> None:
    answer = complete(app, speculative=speculative).json()
    assert client.submits[-1].lossy is None
    assert "lossy" not in answer
    assert "tiers" not in answer["choices"][0]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"lossy": {"accept": 0.3, "escalate": 0.6}}, "speculative.lossy", "escalate < accept"),
        ({"lossy": {"accept": 1.0}}, "speculative.lossy.accept", "less than 1"),
        ({"lossy": {"escalate": 0}}, "speculative.lossy.escalate", "greater than 0"),
        ({"lossy": {"accept": "0.6"}}, "speculative.lossy.accept", "number"),
        ({"lossy": {"share": 0.5}}, "speculative.lossy.share", "max_unverified_share"),
        ({"lossy": {"max_unverified_share": 0}}, "speculative.lossy.max_unverified_share", "0"),
        ({"lossy": True}, "speculative.lossy", "dictionary"),
        ({"lossy": {}, "chain": None}, "speculative.chain", "got none"),
        ({"lossy": {}, "chain": ["slim", "target"]}, "speculative.chain", "needs a drafter"),
        ({"lossy": {}, "chain": ["small", "medium", "target"]}, "speculative.chain", "slimmer"),
        ({"lossy": {}, "chain": ["slimmer", *CHAIN[1:]]}, "speculative.chain", "one member"),
    ],
)
def test_what_is_wrong_is_named(
    app: FastAPI, client: ScriptedClient, fields: dict[str, Any], param: str, says: str
) -> None:
    wrong = error(complete(app, speculative={"chain": CHAIN, **fields}), 400)
    assert wrong["param"] == param
    assert says in wrong["message"]
    assert not client.submits


@pytest.mark.parametrize(
    ("ask", "fields"),
    [
        (complete, {"logprobs": 0}),
        (complete, {"logprobs": 2, "echo": True}),
        (chat, {"logprobs": True}),
    ],
)
def test_log_probabilities_are_refused(app: FastAPI, ask: Any, fields: dict[str, Any]) -> None:
    assert error(ask(app, speculative=LOSSY, **fields), 400)["param"] == "logprobs"


def test_a_service_can_forbid_it(
    client: ScriptedClient,
    pool: Pool,
    report: PoolReport,
    tokenizer: Tokenizer,
    router: ScriptedRouter,
    tmp_path: Path,
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("allow_lossy: false")
    settings = read_settings(file, {})
    service = OpenAIService(client, tokenizer, report, pool, router, Admission(settings))
    app = build_http(service)
    wrong = error(complete(app, speculative=LOSSY), 400)
    assert wrong["param"] == "speculative.lossy"
    assert "allow_lossy" in wrong["message"]
    assert not client.submits
    assert complete(app, speculative={"chain": CHAIN}).status == 200
    assert ServiceSettings().allow_lossy


def test_a_pool_without_a_slim_member_cannot(pool: Pool) -> None:
    members = [m for m in pool.config.members if not isinstance(m, LayerSkipMember)]
    config = pool.config.model_copy(update={"members": tuple(members)})
    with pytest.raises(RequestError, match="of this kind: none") as caught:
        check_lossy(config, ("small", "medium", "target"), SamplingParams())
    assert caught.value.field == "chain"


def test_rows_of_a_batch_can_ask(service: OpenAIService) -> None:
    outcomes: list[Outcome] = []
    runner = BatchRunner(service, Settings("hash", 1, {}), outcomes.append, concurrency=1)
    row = json.dumps({"prompt": "Hi", "speculative": LOSSY}).encode()
    asyncio.run(runner.run(iter([Line(0, 1, row)]), start=0))
    (outcome,) = outcomes
    answer = json.loads(outcome.content)
    assert (answer["lossy"], answer["tiers"]) == (True, TIERS)


def test_so_can_messages_of_grpc(service: OpenAIService, client: ScriptedClient) -> None:
    lossy = pb.Lossy(accept=0.7, escalate=0.2)
    request = pb.GenerateRequest(prompt="Hi", speculative=pb.Speculation(chain=CHAIN, lossy=lossy))
    grpc = GrpcService(service, dict)
    whole = asyncio.run(grpc.generate(request, Context()))
    assert whole.lossy
    assert whole.choices[0].tiers == ParseDict(TIERS, pb.Tiers())

    async def stream() -> list[pb.GenerateStreamResponse]:
        return [message async for message in grpc.generate_stream(request, Context())]

    messages = asyncio.run(stream())
    assert all(message.lossy for message in messages)
    assert [message.HasField("tiers") for message in messages] == [False, False, True]
    assert messages[-1].tiers == ParseDict(TIERS, pb.Tiers())
    assert [submit.lossy.accept for submit in client.submits if submit.lossy] == [0.7, 0.7]


def test_they_are_counted_apart(app: FastAPI) -> None:
    complete(app, speculative=LOSSY, n=2)
    found = samples(app)
    for tier in ("accepted", "slim", "escalated"):
        assert found["specrouter:lossy_tokens_total", tier] == 2 * TIERS[tier]
    assert found["specrouter:lossy_checked_tokens_total",] == 6
    assert found["specrouter:lossy_disagreements_total",] == 2
    assert found["vllm:spec_decode_num_draft_tokens_total",] == 0
    assert found["specrouter:requests_total", ">".join(CHAIN)] == 2
