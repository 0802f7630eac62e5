"""Keys, deadlines, stalled readers and origins at the routes, over a scripted target."""

import asyncio
import threading
from collections.abc import Iterable, MutableMapping
from typing import Any

import pytest
from fastapi import FastAPI

from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.admission import Admission, Need
from specrouter_dist.serving.api_keys import load_keys
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.http_gate import OPEN_PATHS
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.settings import ServiceSettings
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import Reply, call, call_here, call_slowly
from tests.unit.serving.calls import CHAT, COMPLETIONS, USER, error
from tests.unit.serving.conftest import ScriptedRouter
from tests.unit.serving.scripted import Message, ScriptedClient, Submit, output

SECRET = "sk-5b1c4f0e93a84d52"
BEARER = {"authorization": f"Bearer {SECRET}"}
BODY: dict[str, Any] = {"prompt": "Hello", "max_tokens": 6}


class Service:
    """Applications over one scripted target."""

    def __init__(
        self, client: ScriptedClient, pool: Pool, report: PoolReport, tokenizer: Tokenizer
    ) -> None:
        self._parts = (client, tokenizer, report, pool, ScriptedRouter())
        self.admission: Admission | None = None

    def app(self, secret: str | None = None, **fields: Any) -> FastAPI:
        settings = ServiceSettings(**fields)
        keys = load_keys(settings, {"SPECROUTER_API_KEYS": f"{secret} name=a"} if secret else {})
        self.admission = Admission(settings, keys)
        return build_http(OpenAIService(*self._parts, self.admission), settings)

    def is_free(self) -> bool:
        assert self.admission is not None
        return self.admission.num_running == self.admission.num_queued == 0


@pytest.fixture
def service(
    client: ScriptedClient, pool: Pool, report: PoolReport, tokenizer: Tokenizer
) -> Service:
    return Service(client, pool, report, tokenizer)


# -- keys ------------------------------------------------------------------------------------------

ROUTES = [
    ("POST", COMPLETIONS, BODY),
    ("POST", CHAT, {"messages": USER}),
    ("POST", "/tokenize", {"prompt": "Hello"}),
    ("POST", "/detokenize", {"tokens": [5]}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/tiny", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_every_route_wants_a_key(service: Service, method: str, path: str, body: Any) -> None:
    app = service.app(SECRET)
    for wrong in (
        None,
        "",
        SECRET,
        f"Basic {SECRET}",
        f"Bearer {SECRET}x",
        "Bearer",
        "bearer \xff",
    ):
        headers = {} if wrong is None else {"authorization": wrong}
        reply = call(app, method, path, body or b"", headers)
        assert error(reply, 401)["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert SECRET not in reply.body.decode()
    assert call(app, method, path, body or b"", BEARER).status == 200
    assert (
        call(app, method, path, body or b"", {"authorization": f"bearer  {SECRET} "}).status == 200
    )


def test_what_needs_no_key_is_named(service: Service) -> None:
    app = service.app(SECRET)
    assert sorted(OPEN_PATHS) == ["/health", "/metrics", "/openapi.json", "/router"]
    for path in OPEN_PATHS - {"/router"}:
        assert call(app, "GET", path).status == 200
    for path in ("/nothing", "/health/", "/health/../v1/models", "//health", "/metrics?", "/docs"):
        assert call(app, "GET", path).status == 401
    assert SECRET not in call(app, "GET", "/metrics").body.decode()


def test_without_keys_any_key_will_do(service: Service) -> None:
    app = service.app()
    assert call(app, "POST", COMPLETIONS, BODY).status == 200
    assert call(app, "POST", COMPLETIONS, BODY, {"authorization": "Bearer none"}).status == 200


# -- limits ----------------------------------------------------------------------------------------


def test_a_limit_is_429_and_says_when_to_try_again(service: Service) -> None:
    app = service.app(key_limits={"requests_per_minute": 2})
    for stream in (False, True):
        assert call(app, "POST", COMPLETIONS, {**BODY, "stream": stream}).status == 200
    for stream in (False, True):
        reply = call(app, "POST", COMPLETIONS, {**BODY, "stream": stream})
        wrong = error(reply, 429)
        assert (wrong["type"], wrong["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 29 <= int(reply.headers["retry-after"]) <= 30
    assert service.is_free()


def test_only_tokens_that_came_count(service: Service, client: ScriptedClient) -> None:
    num_prompt = call(service.app(), "POST", COMPLETIONS, BODY).json()["usage"]["prompt_tokens"]
    app = service.app(key_limits={"tokens_per_minute": 100 + 2 * (num_prompt + 6)})
    for stream in (False, True):
        assert call(app, "POST", COMPLETIONS, {**BODY, "stream": stream}).status == 200
    assert call(app, "POST", COMPLETIONS, {**BODY, "max_tokens": 100 - num_prompt}).status == 200
    wrong = error(call(app, "POST", CHAT, {"messages": USER}), 400)
    assert wrong["param"] == "max_tokens"
    assert len(client.submits) == 4


# -- deadlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"timeout_s": 0.05}, {}])
def test_a_late_request_is_408_and_cancelled(
    service: Service, client: ScriptedClient, fields: dict[str, float]
) -> None:
    client.script = lambda submit: []
    app = service.app(**fields)
    body = BODY if fields else {**BODY, "timeout": 0.05}
    for stream in (False, True):
        reply = call(app, "POST", COMPLETIONS, {**body, "stream": stream})
        wrong = error(reply, 408)
        assert (wrong["type"], wrong["code"]) == ("timeout_error", "deadline_exceeded")
        assert "0.05 seconds" in wrong["message"]
        # OpenAI's clients try a 408 again if nobody says otherwise.
        assert reply.headers["x-should-retry"] == "false"
    assert client.cancelled == [submit.request for submit in client.submits]
    assert service.is_free()


def test_a_late_stream_says_so_and_closes(service: Service, client: ScriptedClient) -> None:
    client.script = lambda submit: [output(submit, 0, [10])]
    app = service.app(timeout_s=0.2)
    reply = call(app, "POST", COMPLETIONS, {**BODY, "stream": True})
    assert (reply.status, reply.complete) == (200, True)
    assert reply.events()[-1]["error"]["code"] == "deadline_exceeded"
    assert client.cancelled == [client.submits[0].request]
    assert service.is_free()


def test_waiting_for_a_turn_counts(service: Service, client: ScriptedClient) -> None:
    app = service.app(max_running=1)

    async def ask_while_another_runs() -> Reply:
        assert service.admission is not None
        async with service.admission.admit(None, Need(1, 0, 0)):
            return await call_here(app, "POST", COMPLETIONS, {**BODY, "timeout": 0.05})

    error(asyncio.run(ask_while_another_runs()), 408)
    assert client.submits == []
    assert service.is_free()


def test_whoever_hangs_up_in_the_queue_leaves_it(service: Service, client: ScriptedClient) -> None:
    app = service.app(max_running=1)

    async def ask_while_another_runs() -> Reply:
        assert service.admission is not None
        async with service.admission.admit(None, Need(1, 0, 0)):
            return await call_here(app, "POST", COMPLETIONS, BODY, 0)

    assert asyncio.run(ask_while_another_runs()).status is None
    assert client.submits == []
    assert service.is_free()


def test_a_request_may_not_say_any_time(service: Service) -> None:
    app = service.app(max_timeout_s=10.0)
    for timeout, words in ((10.5, "at most 10 seconds"), (0, "greater than 0"), (-1, "greater")):
        wrong = error(call(app, "POST", COMPLETIONS, {**BODY, "timeout": timeout}), 400)
        assert wrong["param"] == "timeout" and words in wrong["message"]


# -- slow clients ----------------------------------------------------------------------------------


def test_a_body_that_does_not_come_is_408(service: Service, client: ScriptedClient) -> None:
    reply = call_slowly(service.app(body_timeout_s=0.05), COMPLETIONS)
    error(reply, 408)
    assert reply.headers["connection"] == "close"
    assert client.submits == []


def test_a_reader_that_has_stopped_is_cancelled(service: Service, client: ScriptedClient) -> None:
    never = threading.Event()

    def goes_on(submit: Submit) -> Iterable[Message]:
        yield output(submit, 0, [10])
        yield output(submit, 1, [11])
        never.wait(5)

    client.script = goes_on
    app = service.app(stall_timeout_s=0.05)
    body = {**BODY, "stream": True}
    reply = call_slowly(app, COMPLETIONS, body, reads_parts=1)
    never.set()
    assert len(reply.parts) == 1
    assert not reply.complete
    assert client.cancelled == [client.submits[0].request]
    assert service.is_free()


# -- origins ---------------------------------------------------------------------------------------

ORIGIN = "https://example.org"


def preflight(app: FastAPI) -> MutableMapping[str, str]:
    headers = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return dict(call(app, "OPTIONS", COMPLETIONS, b"", headers).headers)


def test_no_web_page_may_call_unless_it_is_named(service: Service) -> None:
    allowed = "access-control-allow-origin"
    app = service.app(SECRET)
    assert allowed not in preflight(app)
    assert allowed not in call(app, "GET", "/health", b"", {"origin": ORIGIN}).headers
    app = service.app(SECRET, cors_origins=["https://other.org"])
    assert allowed not in preflight(app)
    app = service.app(SECRET, cors_origins=[ORIGIN])
    assert preflight(app)[allowed] == ORIGIN
    for headers in ({}, BEARER):
        reply = call(app, "POST", COMPLETIONS, BODY, {"origin": ORIGIN, **headers})
        assert reply.headers[allowed] == ORIGIN, "a refusal is readable too"
