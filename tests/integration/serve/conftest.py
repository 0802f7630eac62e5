"""One server for all tests of this folder: starting one takes longest. The last test ends it."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest
import ray
import yaml

from specrouter_dist.actors.registry import NAMESPACE, find_workers
from specrouter_dist.observability.spans import ENDPOINTS
from specrouter_dist.pools.loading import load_pool, portable_members, resolve_directories
from tests.collector import Collector, collecting
from tests.integration.serve.running import READY_WITHIN_S, SETTINGS, SLIM, NumSessions, Server


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    """Where every process of the server sends its spans."""
    with collecting() as opened:
        yield opened


@pytest.fixture(scope="package")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, grpc_port = probe.getsockname()[1], other.getsockname()[1]
    ports = ["--port", str(port), "--grpc-port", str(grpc_port)]
    folder = tmp_path_factory.mktemp("server")
    pool, settings = folder / "tiny.yaml", folder / "settings.yaml"
    *drafters, target = portable_members(resolve_directories(load_pool("tiny")))
    pool.write_text(yaml.safe_dump({"name": "tiny", "members": [*drafters, SLIM, target]}))
    settings.write_text(yaml.safe_dump(SETTINGS))
    command = [sys.executable, "-m", "specrouter_dist.cli", "serve", "--pool", str(pool), *ports]
    command += ["--log-format", "json", "--settings", str(settings)]
    # Ray's metrics are to be had soon.
    environment = {**os.environ, "RAY_metrics_report_interval_ms": "1000"}
    environment |= {ENDPOINTS[0]: collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], READY_WITHIN_S)
            assert ready, "the server is not up"
            line = process.stdout.readline()
            where = f"http://127.0.0.1:{port}/v1, gRPC at port {grpc_port}"
            assert line == f"serving 'tiny' at {where}\n"
            # Which chains run is for the tests to say, not for what is not calibrated yet.
            assert process.stdout.readline().startswith("calibrated 'tiny'")
            yield Server(process, port, grpc_port)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def num_sessions(server: Server) -> Iterator[NumSessions]:
    """Asked of the pool's actors."""
    ray.init("auto", namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    router = ray.get_actor("tiny:router", NAMESPACE)
    workers = find_workers(ray.get(router.spec.remote()))

    def count() -> dict[str, int]:
        numbers = ray.get([worker.num_sessions.remote() for worker in workers.values()])
        return dict(zip(workers, numbers, strict=True))

    yield count
    ray.shutdown()
