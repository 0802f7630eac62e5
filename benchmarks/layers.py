"""The ways by which a prompt reaches the same models, each with one layer more than the last."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from benchmarks.clients.service import serve, wait_until, write_pool
from benchmarks.events import parse_event
from benchmarks.ports import free_port
from specrouter_dist.cli.backends import find_backend, open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_schema import Speculation
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.serving.speculative import Speculating
from specrouter_dist.text.tokenizer import Tokenizer

LAYERS = ("local", "actors", "http", "serve")
"""The pool in this process; its Ray actors over our links; OpenAI's routes over the same actors, in
a process with an HTTP server; the same in a replica of Ray Serve's: ``specrouter serve``."""
_UP_WITHIN_S = 60.0
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and how it is drafted."""

    prompt: str
    chain: tuple[str, ...]
    num_draft_tokens: int
    """Length of the blocks; 0 for the target alone."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Timed:
    """An answer, as its client saw it."""

    text: str
    num_tokens: int
    time_to_first_token_ms: float
    total_ms: float
    """From the request to the last token."""

    @property
    def tokens_per_second(self) -> float:
        """All tokens over the whole time."""
        return self.num_tokens / self.total_ms * 1e3


Ask = Callable[[Asked], Timed]


@contextmanager
def open_layers(pool: Pool, directory: Path) -> Iterator[Mapping[str, Ask]]:
    """All of them at once, without a prefix cache; the pool's actors are the same for all but the
    first.

    Args:
        pool: with all directories resolved.
        directory: where the pool file of the run goes.
    """
    file = write_pool(pool, directory / "cold.yaml", prefix_cache=False)
    pool, report = open_pool(str(file), dtype=None)
    with ExitStack() as stack:
        local = stack.enter_context(open_backend(pool, report, BackendName.LOCAL))
        service = stack.enter_context(serve(file))
        actors = stack.enter_context(find_backend(pool, report))
        url = stack.enter_context(_http_server(file))
        client = stack.enter_context(httpx.Client(timeout=_TIMEOUT_S))
        tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
        yield {
            "local": _of_backend(local, pool, tokenizer),
            "actors": _of_backend(actors, pool, tokenizer),
            "http": _of_url(client, url),
            "serve": _of_url(client, service.url),
        }


def _of_backend(backend: PoolBackend, pool: Pool, tokenizer: Tokenizer) -> Ask:
    speculating = Speculating(pool, backend.running, allows_lossy=True)

    def ask(asked: Asked) -> Timed:
        started = time.perf_counter()
        sampling = SamplingParams(temperature=0.0, max_tokens=asked.max_tokens, ignore_eos=True)
        prompt = tokenizer.encode(asked.prompt)
        request = GenerateRequest(prompt, sampling)
        wanted = Speculation(chain=list(asked.chain), num_speculative_tokens=asked.num_draft_tokens)
        plan = speculating.plan_now(wanted, request.traffic)
        # What HTTP does for a request, too: the prompt's tokens, and the plan of a stated chain.
        before_ms = (time.perf_counter() - started) * 1e3
        (result,) = backend.generate([GenerateRequest(prompt, sampling, plan=plan)], concurrency=1)
        metrics = result.metrics
        first_ms = before_ms + metrics.time_to_first_token_ms
        total_ms = first_ms + metrics.generation_time_ms
        return Timed(result.text, len(result.token_ids), first_ms, total_ms)

    return ask


def _of_url(client: httpx.Client, url: str) -> Ask:
    def ask(asked: Asked) -> Timed:
        body = {
            "prompt": asked.prompt,
            "max_tokens": asked.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "speculative": {
                "chain": asked.chain,
                "num_speculative_tokens": asked.num_draft_tokens,
            },
        }
        started = time.perf_counter()
        texts: list[str] = []
        times_ms: list[float] = []
        num_tokens = 0
        with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise SystemExit(f"{url}: {response.status_code} {response.read().decode()}")
            for line in response.iter_lines():
                if (event := parse_event(line)) is None:
                    continue
                if event["choices"]:
                    times_ms.append((time.perf_counter() - started) * 1e3)
                    texts.append(event["choices"][0]["text"])
                else:
                    num_tokens = event["usage"]["completion_tokens"]
        return Timed("".join(texts), num_tokens, times_ms[0], times_ms[-1])

    return ask


@contextmanager
def _http_server(file: Path) -> Iterator[str]:
    """The routes over a pool that runs, in a process of their own; its address."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_run_http, args=(file, port))
    process.start()
    url = f"http://127.0.0.1:{port}"
    try:
        if wait_until(lambda: _answers(url), _UP_WITHIN_S) is None:
            raise SystemExit("the HTTP server is not up")
        yield url
    finally:
        process.terminate()
        process.join()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models").is_success
    except httpx.TransportError:
        return False


def _run_http(file: Path, port: int) -> None:
    pool, report = open_pool(str(file), dtype=None)
    with find_backend(pool, report) as backend:
        tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
        running = backend.running
        service = OpenAIService(running.client, tokenizer, report, pool, running)
        uvicorn.run(build_http(service), host="127.0.0.1", port=port, log_level="warning")
