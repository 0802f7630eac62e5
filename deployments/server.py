"""The service of one command: ``specrouter serve``."""

import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

from ray import serve

from deployments.app import LOGGING, bind, connect
from specrouter_dist.actors.pool import start_ray, stop_ray
from specrouter_dist.errors import UnavailableError
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.loading import Pool

APP_NAME = "specrouter"


def run_server(pool: Pool, *, host: str, port: int) -> None:
    """Serves the pool until SIGINT or SIGTERM; what it started ends with it.

    Raises:
        UnavailableError: the pool is not up in time, or Serve listens elsewhere.
        KeyboardInterrupt: a signal ended it.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    report = check_pool(pool)
    started = start_ray()
    # Ray has taken SIGTERM for itself, and a script's background jobs inherit an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    running = None
    try:
        with ThreadPoolExecutor(1) as executor:
            # Serve's controller and proxy come up while the members load.
            starting = executor.submit(
                serve.start,
                proxy_location="HeadOnly",
                http_options={"host": host, "port": port},
                logging_config=LOGGING,
            )
            running = connect(pool, report, detached=False)
            starting.result()
        serve.run(bind(pool, report), name=APP_NAME, route_prefix="/")
        _check_listening(host, port)
        print(f"serving {pool.config.name!r} at http://{host}:{port}/v1", flush=True)
        signal.pause()
    finally:
        if started:
            serve.shutdown()
        else:
            serve.delete(APP_NAME)
        if running is not None:
            running.close()
        if started:
            stop_ray()


def _check_listening(host: str, port: int) -> None:
    """Serve keeps to the address it was first started with, as long as its cluster lives."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError as problem:
        raise UnavailableError(
            f"nothing listens on {host}:{port}: {problem.strerror}; if Serve ran in this cluster "
            "before, use its address or end it with 'serve shutdown'"
        ) from None
