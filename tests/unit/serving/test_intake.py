"""What is sent is bounded before it is admitted."""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.batch.keys import Settings
from specrouter_dist.batch.lines import Line
from specrouter_dist.errors import RateLimitError, RequestError
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.batch_runner import BatchRunner, Outcome
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.intake import Intake
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.settings import MAX_BODY_BYTES, ServiceSettings
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import call, call_slowly
from tests.unit.serving.calls import CHAT, COMPLETIONS, USER, error
from tests.unit.serving.conftest import ScriptedRouter
from tests.unit.serving.scripted import Message, ScriptedClient, Submit, plain_answer
from tests.unit.serving.test_grpc_service import Context
from tests.unit.serving.test_http_keys import Service

BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "Hello"},
    CHAT: {"messages": USER},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [5]},
}


@pytest.fixture
def http(client: ScriptedClient, pool: Pool, report: PoolReport, tokenizer: Tokenizer) -> Service:
    return Service(client, pool, report, tokenizer)


# -- bytes -----------------------------------------------------------------------------------------


def test_so_many_bytes_at_a_time_and_no_more() -> None:
    intake = Intake(10)
    with intake.taking() as take, intake.taking() as take_other:
        take(4)
        take_other(6)
        with pytest.raises(RateLimitError, match=r"10 bytes .* no more than 10 may be"):
            take(1)
        assert intake.num_bytes == 10
    assert intake.num_bytes == 0
    with Intake(None).taking() as take:
        take(1 << 40)


@pytest.mark.parametrize("path", BODIES)
def test_one_byte_too_many_is_429(http: Service, client: ScriptedClient, path: str) -> None:
    app = http.app(max_pending_bytes=MAX_BODY_BYTES)
    assert http.admission is not None
    intake, body = http.admission.intake, json.dumps(BODIES[path]).encode()
    with intake.taking() as take:
        take(MAX_BODY_BYTES - len(body))
        assert call(app, "POST", path, body).status == 200
        take(1)
        num_submits = len(client.submits)
        reply = call(app, "POST", path, body)
        wrong = error(reply, 429)
        assert (wrong["code"], reply.headers["retry-after"]) == ("rate_limit_exceeded", "1")
        assert f"no more than {MAX_BODY_BYTES} may be" in wrong["message"]
        assert len(client.submits) == num_submits
    assert intake.num_bytes == 0
    assert call(app, "POST", path, body).status == 200


def test_a_body_counts_until_it_is_a_job(
    http: Service, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, body = http.app(), json.dumps(BODIES[COMPLETIONS]).encode()
    assert http.admission is not None
    intake, ids = http.admission.intake, Tokenizer._ids
    held: list[int] = []

    def note(tokenizer: Tokenizer, *args: Any) -> list[int]:
        held.append(intake.num_bytes)
        return ids(tokenizer, *args)

    def script(submit: Submit) -> Iterable[Message]:
        held.append(intake.num_bytes)
        yield from plain_answer(submit)

    monkeypatch.setattr(Tokenizer, "_ids", note)
    client.script = script
    assert call(app, "POST", COMPLETIONS, body).status == 200
    assert held == [len(body), 0]


def test_what_is_given_up_counts_no_more(http: Service) -> None:
    app = http.app(body_timeout_s=0.05)
    assert http.admission is not None
    error(call_slowly(app, COMPLETIONS), 408)
    for body in (b"{", b'{"prompt": "a", "typo": 1}', b" " * (MAX_BODY_BYTES + 1)):
        assert call(app, "POST", COMPLETIONS, body).status in (400, 413)
    assert http.admission.intake.num_bytes == 0


def test_messages_of_grpc_count_too(
    client: ScriptedClient,
    pool: Pool,
    report: PoolReport,
    tokenizer: Tokenizer,
    router: ScriptedRouter,
) -> None:
    admission = Admission(ServiceSettings(max_pending_bytes=MAX_BODY_BYTES))
    service = OpenAIService(client, tokenizer, report, pool, router, admission)
    methods = GrpcService(service, dict)
    calls: list[Callable[[Context], Any]] = [
        lambda context: methods.generate(pb.GenerateRequest(prompt="a"), context),
        lambda context: methods.tokenize(pb.TokenizeRequest(prompt="a"), context),
        lambda context: methods.detokenize(pb.DetokenizeRequest(tokens=[5]), context),
    ]
    with admission.intake.taking() as take:
        take(MAX_BODY_BYTES)
        for one in calls:
            with pytest.raises(RateLimitError):
                asyncio.run(one(Context()))
    for one in calls:
        asyncio.run(one(Context()))
    assert admission.intake.num_bytes == 0


def test_the_largest_body_fits() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 16777216"):
        ServiceSettings(max_pending_bytes=MAX_BODY_BYTES - 1)


# -- texts -----------------------------------------------------------------------------------------


@pytest.fixture
def too_long(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A text that is not tokenized."""
    with pytest.raises(RequestError, match=r"at most (\d+) can fit") as caught:
        tokenizer.encode("a" * 10_000_000, context_tokens=2048)
    most = int(str(caught.value).split("at most ")[1].split()[0])
    assert most > 4 * 2048

    def forbidden(*_: Any) -> list[int]:
        raise AssertionError("it is tokenized")

    monkeypatch.setattr(Tokenizer, "_ids", forbidden)
    return "a" * (most + 1)


def words(too_long: str) -> str:
    return f"{len(too_long)} characters; at most {len(too_long) - 1} can fit the context of 2048"


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    app: FastAPI, too_long: str
) -> None:
    messages = [{"role": "user", "content": part} for part in (too_long[:-1], "b")]
    for path, fields, param in (
        (COMPLETIONS, {"prompt": too_long}, "prompt"),
        (COMPLETIONS, {"prompt": [too_long, "b"]}, "prompt"),
        (CHAT, {"messages": messages}, "messages"),
    ):
        wrong = error(call(app, "POST", path, fields), 400)
        assert wrong["param"] == param
        assert "can fit the context of 2048" in wrong["message"]


def test_so_it_is_in_rows_of_a_batch_and_in_grpc(service: OpenAIService, too_long: str) -> None:
    outcomes: list[Outcome] = []
    runner = BatchRunner(service, Settings("hash", 1, {}), outcomes.append, concurrency=1)
    row = json.dumps({"prompt": too_long}).encode()
    asyncio.run(runner.run(iter([Line(0, 1, row)]), start=0))
    assert words(too_long) in str(outcomes[0].problem)
    context = Context()
    with pytest.raises(RequestError):
        request = pb.GenerateRequest(prompt=too_long)
        asyncio.run(GrpcService(service, dict).generate(request, context))
    assert context.details.startswith("prompt: " + words(too_long))


def test_what_can_fit_is_counted_in_tokens(app: FastAPI, too_long: str) -> None:
    with pytest.raises(AssertionError, match="it is tokenized"):
        call(app, "POST", COMPLETIONS, {"prompt": too_long[:-1]})
    with pytest.raises(AssertionError, match="it is tokenized"):
        call(app, "POST", "/tokenize", {"prompt": too_long})
