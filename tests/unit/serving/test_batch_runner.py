"""Rows on the service, over a target that the tests script."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from specrouter_dist.batch.keys import Settings
from specrouter_dist.batch.lines import Line
from specrouter_dist.errors import SpecRouterError, UnavailableError
from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.serving import batch_runner
from specrouter_dist.serving.batch_runner import BatchRunner, Outcome
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.speculation.noise import derive_seed
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.scripted import ROUNDS, Message, ScriptedClient, plain_answer

TOKENS = [token for tokens in ROUNDS for token in tokens]
SETTINGS = Settings("hash", 1, {})


def lines_of(rows: Iterable[dict[str, Any]], start: int = 0) -> Iterator[Line]:
    for index, row in enumerate(rows, start):
        yield Line(index, index + 1, json.dumps(row).encode())


def run(
    service: OpenAIService, rows: Sequence[dict[str, Any]], *, concurrency: int = 3, start: int = 0
) -> list[dict[str, Any]]:
    outcomes: list[Outcome] = []
    runner = BatchRunner(service, SETTINGS, outcomes.append, concurrency=concurrency)
    asyncio.run(runner.run(lines_of(rows, start), start=start))
    return [json.loads(outcome.content) for outcome in outcomes]


def test_a_plain_row_has_generates_shape(service: OpenAIService, tokenizer: Tokenizer) -> None:
    (row,) = run(service, [{"prompt": "Hi", "seed": 5, "id": 3}])
    assert row["text"] == tokenizer.detokenizer().push(TOKENS)
    assert (row["id"], row["seed"], row["token_ids"], row["error"]) == (3, 5, TOKENS, None)
    assert "logprobs" not in row


def test_an_openai_row_has_openais_shape(service: OpenAIService) -> None:
    body = {"prompt": ["Hi", "Ho"], "n": 2, "model": "tiny"}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    (row,) = run(service, [asked], start=2)
    assert list(row) == ["id", "custom_id", "response", "error"]
    assert (row["custom_id"], row["error"], row["response"]["status_code"]) == ("a", None, 200)
    answer = row["response"]["body"]
    assert (answer["object"], answer["seed"]) == ("text_completion", derive_seed(1, 0, 2))
    assert len(answer["choices"]) == 4


def test_an_echo_is_in_the_text_of_plain_rows_too(service: OpenAIService) -> None:
    (row,) = run(service, [{"prompt": "Hi", "echo": True}])
    assert row["text"].startswith("Hi")


def test_what_the_service_refuses_is_carried_and_the_others_run(service: OpenAIService) -> None:
    openai = {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions"}
    rows = [
        {"prompt": "x", "temperature": "hot", "id": 1},
        {**openai, "body": {"messages": [], "model": "tiny"}},
        {**openai, "body": {"messages": [{"role": "user", "content": "x"}], "model": "gpt"}},
        {"prompt": "x " * 5000},
        {"prompt": "x", "n": 2},
        {"prompt": "x", "speculative": {"chain": ["nobody", "target"]}},
        {"prompt": "x"},
    ]
    answers = run(service, rows)
    assert [answer["error"] and answer["error"]["line"] for answer in answers] == [
        *range(1, 7),
        None,
    ]
    assert (answers[0]["id"], answers[0]["error"]["param"]) == (1, "temperature")
    assert [answers[i]["response"]["status_code"] for i in (1, 2)] == [400, 404]
    assert answers[2]["response"]["body"]["error"]["code"] == "model_not_found"
    assert "fit the context" in answers[3]["error"]["message"]
    assert "a plain row has one output" in answers[4]["error"]["message"]
    assert answers[5]["error"]["param"] == "speculative.chain"


@pytest.mark.parametrize("defaults", [{}, {"max_tokens": 4_000_000_000}])
def test_a_row_that_wants_more_than_fits_is_refused(
    service: OpenAIService, defaults: dict[str, Any]
) -> None:
    outcomes: list[Outcome] = []
    runner = BatchRunner(service, Settings("hash", 1, defaults), outcomes.append, concurrency=1)
    rows = [{"prompt": "x", "max_tokens": 4_000_000_000}, {"prompt": "x", "max_tokens": 4}]
    asyncio.run(runner.run(lines_of(rows), start=0))
    wrong, right = (json.loads(outcome.content)["error"] for outcome in outcomes)
    assert (wrong["param"], wrong["line"], right) == ("max_tokens", 1, None)
    assert "4000000000 tokens behind a prompt of " in wrong["message"]


def test_answers_are_written_in_order_and_few_rows_are_held(
    service: OpenAIService, client: ScriptedClient
) -> None:
    first_may_end = threading.Event()

    def script(submit: Submit) -> Iterable[Message]:
        if submit.sampling.seed == 77:
            assert first_may_end.wait(30)
        yield from plain_answer(submit)

    client.script = script
    rows = [{"prompt": "Hi", "seed": 77 + i, "number": i} for i in range(100)]
    taken = 0

    def lines() -> Iterator[Line]:
        nonlocal taken
        for line in lines_of(rows):
            taken += 1
            yield line

    written: list[Outcome] = []

    async def main() -> None:
        runner = BatchRunner(service, SETTINGS, written.append, concurrency=4)
        running = asyncio.ensure_future(runner.run(lines(), start=0))
        while taken < 32 and not running.done():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (taken, written) == (32, [])
        first_may_end.set()
        await running

    asyncio.run(main())
    assert [json.loads(outcome.content)["number"] for outcome in written] == list(range(100))


def fails(kind: str, message: str) -> Any:
    def script(submit: Submit) -> Iterable[Message]:
        yield Failed(submit.request, kind, message)

    return script


def test_a_lost_pool_stops_the_run_and_fails_no_row(
    service: OpenAIService, client: ScriptedClient
) -> None:
    client.script = fails("UnavailableError", "the target was lost")
    written: list[Outcome] = []
    runner = BatchRunner(service, SETTINGS, written.append, concurrency=3)
    with pytest.raises(UnavailableError, match="the target was lost"):
        asyncio.run(runner.run(lines_of([{"prompt": "Hi"}] * 9), start=0))
    assert written == []


def test_a_row_without_room_is_tried_again(
    service: OpenAIService, client: ScriptedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "_ROOM_PAUSES_S", (0.0, 0.0))
    refused = fails("NoRoomError", "full")
    client.script = lambda s: (refused if len(client.submits) < 3 else plain_answer)(s)
    assert run(service, [{"prompt": "Hi"}])[0]["error"] is None
    assert len(client.submits) == 3
    client.script = refused
    (row,) = run(service, [{"prompt": "Hi"}])
    assert (row["error"]["code"], len(client.submits)) == ("no_room", 6)


def test_an_output_that_cannot_be_written_stops_the_run(service: OpenAIService) -> None:
    def write(_: Outcome) -> None:
        raise SpecRouterError("output: the disk is full")

    runner = BatchRunner(service, SETTINGS, write, concurrency=2)
    with pytest.raises(SpecRouterError, match="the disk is full"):
        asyncio.run(runner.run(lines_of([{"prompt": "Hi"}] * 5), start=0))


def test_cancelling_the_run_cancels_its_requests(
    service: OpenAIService, client: ScriptedClient
) -> None:
    client.script = lambda _: ()

    async def main() -> None:
        runner = BatchRunner(service, SETTINGS, lambda _: None, concurrency=3)
        running = asyncio.ensure_future(runner.run(lines_of([{"prompt": "Hi"}] * 9), start=0))
        while len(client.submits) < 3:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert sorted(client.cancelled) == sorted(submit.request for submit in client.submits)
