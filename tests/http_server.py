"""The service over the embedded pool in this process, behind a real socket. No Ray."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from specrouter_dist.cli.session import open_pool
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.api_keys import ApiKeys
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.settings import ServiceSettings
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.worker.local import LocalPool
from tests.pools import short_start

FREE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpServer:
    """One that runs."""

    port: int
    running: LocalPool
    admission: Admission

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def num_held(self) -> int:
        """Requests that somebody still holds something for, at any level."""
        admission = self.admission
        return self.running.worker.num_sessions + admission.num_running + admission.num_queued

    def wait_until_free(self) -> None:
        """Until nothing is held for any request."""
        end = time.monotonic() + FREE_WITHIN_S
        while self.num_held:
            assert time.monotonic() < end, f"{self.num_held} are still held"
            time.sleep(0.01)


@contextmanager
def running_pool() -> Iterator[LocalPool]:
    """The pool ``tiny``, not calibrated: which chain runs is no matter here."""
    pool, report = open_pool("tiny", dtype=None)
    with short_start():
        running = LocalPool(pool, report)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def serving(
    running: LocalPool, settings: ServiceSettings, keys: ApiKeys | None = None
) -> Iterator[HttpServer]:
    """The service on a port of its own, until the context ends."""
    pool, report = open_pool("tiny", dtype=None)
    tokenizer = Tokenizer.load(pool.directories["target"])
    admission = Admission(settings, keys)
    service = OpenAIService(running.client, tokenizer, report, pool, running, admission)
    config = uvicorn.Config(build_http(service, settings), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    # The kernel takes little off a stream that nobody reads; connections inherit it.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    thread = threading.Thread(target=lambda: server.run([listening]), name="uvicorn")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield HttpServer(listening.getsockname()[1], running, admission)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
