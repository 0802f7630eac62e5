"""The service of one command: ``specrouter serve``."""

import logging
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from ray import serve
from ray.serve import Application

from deployments.app import LOGGING, bind
from deployments.grpc import SERVICER_FUNCTIONS
from deployments.listener import Address
from specrouter_dist.actors.cluster import start_ray, stop_ray
from specrouter_dist.actors.placing import check_placeable
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.starting import PoolActors, start_or_find
from specrouter_dist.config import LogFormat
from specrouter_dist.errors import UnavailableError
from specrouter_dist.observability.logs import configure_logs
from specrouter_dist.pools.checks import PoolReport, check_pool
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.calibration import calibrate_beside
from specrouter_dist.serving.settings import ServiceSettings

APP_NAME = "specrouter"


def run_server(
    pool: Pool,
    settings: ServiceSettings,
    *,
    host: str,
    port: int,
    grpc_port: int | None,
    log_format: LogFormat,
) -> None:
    """Serves the pool until SIGINT or SIGTERM; what it started ends with it.

    Args:
        pool: with all directories resolved.
        settings: of the service.
        host: address of the HTTP service.
        port: its port.
        grpc_port: of the gRPC service, on all addresses; None: there is none.
        log_format: of this process and all actors.

    Raises:
        InputError: of the API keys.
        UnavailableError: the pool is not up in time, or Serve listens elsewhere.
        KeyboardInterrupt: a signal ended it.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    configure_logs(log_format, "serve")
    report = check_pool(pool)
    with ExitStack() as stack:
        # Of a cluster that runs already any node may get the ingress: Serve's proxies listen then.
        address = None
        if start_ray():
            stack.callback(stop_ray)
            check_placeable(pool)
            address = Address(host, port)
        application = bind(pool, report, settings, log_format, address, starts_pool=False)
        # Ray takes SIGTERM for itself, and a script's background jobs inherit an ignored SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        actors = start_or_find(pool, report, detached=False, log_format=log_format)
        deploy = partial(_deploy, application, host, port, grpc_port, address)
        running = _start(stack, actors, deploy)
        _tell_ready(pool.config.name, host, port, grpc_port)
        _complete(pool, report, running)
        signal.pause()


def _start(stack: ExitStack, actors: PoolActors, deploy: Callable[[], None]) -> RunningPool:
    """Serve and the ingress, which waits for the target, come up while the members load.

    Args:
        stack: ends all of it.
        actors: of the pool.
        deploy: returns when requests are answered.
    """
    executor = stack.enter_context(ThreadPoolExecutor(1))
    deploying = executor.submit(deploy)
    # The pool ends behind the application, whose requests need it.
    behind = stack.enter_context(ExitStack())
    stack.callback(_end_app, deploying)
    running = RunningPool(actors)
    behind.callback(running.close)
    deploying.result()
    return running


def _deploy(
    application: Application, host: str, port: int, grpc_port: int | None, address: Address | None
) -> None:
    """Starts Serve and the application; when it returns, requests are answered."""
    _start_serve(host, port, grpc_port, address)
    try:
        serve.run(application, name=APP_NAME, route_prefix="/")
    except BaseException:
        serve.delete(APP_NAME)
        raise


def _end_app(deploying: Future[None]) -> None:
    """Once it is there; what never was has ended itself."""
    if deploying.exception() is None:
        serve.delete(APP_NAME)


def _complete(pool: Pool, report: PoolReport, running: RunningPool) -> None:
    """What a pool does without at first: its drafters, and what the router is to know of them.

    Raises:
        UnavailableError: a drafter cannot start.
    """
    running.wait_for_drafters()
    if not running.is_new:
        return
    if calibrate_beside(pool, report, PoolBackend(pool, report, running)):
        print(f"calibrated {pool.config.name!r}: its router knows all members", flush=True)
    else:
        print(f"not calibrated {pool.config.name!r}: requests teach its router", flush=True)


def _tell_ready(name: str, host: str, port: int, grpc_port: int | None) -> None:
    """
    Raises:
        UnavailableError: Serve listens elsewhere.
    """
    _check_listening(host, port)
    also = ""
    if grpc_port is not None:
        _check_listening(host, grpc_port)
        also = f", gRPC at port {grpc_port}"
    print(f"serving {name!r} at http://{host}:{port}/v1{also}", flush=True)


def _start_serve(host: str, port: int, grpc_port: int | None, address: Address | None) -> None:
    """With a proxy where one has to listen; that of gRPC brings one of HTTP, too."""
    grpc_options = None
    if grpc_port is not None:
        grpc_options = {"port": grpc_port, "grpc_servicer_functions": list(SERVICER_FUNCTIONS)}
    needs_proxy = address is None or grpc_port is not None
    # At port 0 it takes a free one.
    http_options = {"host": host, "port": port} if address is None else {"port": 0}
    serve.start(
        proxy_location="HeadOnly" if needs_proxy else "Disabled",
        http_options=http_options,
        grpc_options=grpc_options,
        logging_config=LOGGING,
    )


def _check_listening(host: str, port: int) -> None:
    """Serve keeps to the address it was first started with, as long as its cluster lives."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError as problem:
        raise UnavailableError(
            f"nothing listens on {host}:{port}: {problem.strerror}; if Serve ran in this cluster "
            "before, use its address or end it with 'serve shutdown'"
        ) from None
