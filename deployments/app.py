"""The OpenAI-compatible service as a Ray Serve application.

``serve run ray_config.yaml`` and ``serve deploy`` call :func:`build_app`. Ray only carries the
requests; tokens come over the ingress's own link to the target.
"""

import asyncio
import logging
import threading
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from deployments.grpc import GrpcMethods
from deployments.listener import Address, Listener
from deployments.page import add_router_page
from deployments.replicas import Replicas
from deployments.request_id import IdOnce
from specrouter_dist.actors.finding import find_actors
from specrouter_dist.actors.pool import RunningPool
from specrouter_dist.actors.starting import start_or_find
from specrouter_dist.config import DEFAULT_LOG_FORMAT, Dtype, LogFormat, UserModel
from specrouter_dist.errors import UnavailableError
from specrouter_dist.observability.logs import configure_logs
from specrouter_dist.observability.spans import close_spans, configure_spans
from specrouter_dist.pools.checks import PoolReport, check_pool
from specrouter_dist.pools.loading import Pool, load_pool, resolve_directories
from specrouter_dist.serving.admission import Admission
from specrouter_dist.serving.api_keys import ApiKeys, load_keys
from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.calibration import calibrate_beside
from specrouter_dist.serving.exposition import Families, merged
from specrouter_dist.serving.grpc_service import GrpcService
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.router_http import add_router_route
from specrouter_dist.serving.settings import ServiceSettings
from specrouter_dist.serving.target_metrics import target_families
from specrouter_dist.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LOGGING = {"log_level": "WARNING", "enable_access_log": False}


class ServeArgs(UserModel):
    """``args`` of the application in a Serve config file."""

    pool: str = "tiny"
    """A pool's name, or the path of a pool file."""
    dtype: Dtype | None = None
    """Replaces that of every member."""
    service: ServiceSettings = ServiceSettings()
    """Keys, limits, deadlines, origins."""
    log_format: LogFormat = DEFAULT_LOG_FORMAT
    """Of the ingress and of actors that are started."""


# Serve looks at the annotation itself, so it must not be a text.
def build_app(args: ServeArgs) -> Application:
    """The application of a Serve config file."""
    pool = resolve_directories(load_pool(args.pool, dtype=args.dtype))
    return bind(pool, check_pool(pool), args.service, args.log_format, starts_pool=True)


def bind(
    pool: Pool,
    report: PoolReport,
    settings: ServiceSettings,
    log_format: LogFormat,
    address: Address | None = None,
    *,
    starts_pool: bool,
) -> Application:
    """The application over a checked pool.

    Args:
        pool: with all directories resolved.
        report: of its check.
        settings: of the service.
        log_format: of the ingress and of actors that are started.
        address: where the ingress listens by itself, of which there is one then; None: Serve's
            proxies listen.
        starts_pool: where it does not run; else somebody else has started it.

    Raises:
        InputError: of the API keys, which are read here: replicas may run elsewhere.
    """
    keys = load_keys(settings)
    application: Application = _DEPLOYMENT.bind(
        pool, report, settings, keys, log_format, address, starts_pool=starts_pool
    )
    return application


class Ingress(GrpcMethods):
    """The HTTP routes and the gRPC methods.

    Replicas share the pool's actors; the first to come starts them.
    """

    def __init__(
        self,
        pool: Pool,
        report: PoolReport,
        settings: ServiceSettings,
        keys: ApiKeys,
        log_format: LogFormat,
        address: Address | None,
        *,
        starts_pool: bool,
    ) -> None:
        configure_logs(log_format, "ingress")
        configure_spans("ingress")
        self._settings = settings
        actors = (
            start_or_find(pool, report, detached=True, log_format=log_format)
            if starts_pool
            else find_actors(pool)
        )
        self._running = running = RunningPool(actors)
        if running.is_new:
            running.wait_for_drafters()
            _begin_calibrating(pool, report, running)
        tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
        self._service = OpenAIService(
            running.client, tokenizer, report, pool, running, Admission(settings, keys)
        )
        self.grpc = GrpcService(self._service, running.explain)
        self._replicas = Replicas()
        self._listener = Listener(address) if address else None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        # Ready means that real tokens have come.
        await self._service.health()
        app = build_http(self._service, self._settings, self._scrape)
        add_router_route(app, self._running.explain)
        add_router_page(app)
        if self._listener is not None:
            await self._listener.start(app)
        return IdOnce(app)

    def check_health(self) -> None:
        """Serve asks; it starts another replica in the place of one that raises."""
        if self._listener is not None:
            self._listener.check()

    async def metrics_share(self) -> tuple[str, Families]:
        """This replica's name and what it has counted, for the one that is asked for all."""
        return self._replicas.own_name, self._service.metrics()

    async def _scrape(self) -> Families:
        """Of all replicas, and of the target that they share."""
        families = merged(await self._replicas.ask("metrics_share"))
        try:
            status = await asyncio.to_thread(self._running.target_status)
        except UnavailableError as problem:
            # The others say that something is wrong; there is no better time to be asked.
            logger.warning("no metrics of the target: %s", problem)
            return families
        return [*families, *target_families(self._service.model, status)]

    async def __del__(self) -> None:
        if self._listener is not None:
            await self._listener.stop()
        await asyncio.to_thread(self._running.close)
        await asyncio.to_thread(close_spans)


def _begin_calibrating(pool: Pool, report: PoolReport, running: RunningPool) -> None:
    """On a thread, beside the first requests."""
    backend = PoolBackend(pool, report, running)
    arguments = (pool, report, backend)
    threading.Thread(
        target=calibrate_beside, args=arguments, name="calibration", daemon=True
    ).start()


_DEPLOYMENT: Any = serve.deployment(
    # The target's own queue refuses what is too much, in OpenAI's shape.
    max_ongoing_requests=4096,
    max_constructor_retry_count=2,
    ray_actor_options={"num_cpus": 0},
    logging_config=LOGGING,
)(serve.ingress()(Ingress))
