"""The Ray cluster that this process is in: one that runs, or one of its own."""

import logging
import os
from typing import Any

import ray

from specrouter_dist.actors.registry import NAMESPACE

_OBJECT_STORE_BYTES = 100 * 1024 * 1024
"""Tokens do not travel through the object store."""


def start_ray() -> bool:
    """Connects to the running cluster, or starts one on this machine; whether it was started.

    Ray looks for ``RAY_ADDRESS`` and for a cluster of this machine before it starts one.
    """
    if ray.is_initialized():
        return False
    running = os.environ.get("RAY_ADDRESS") or os.path.exists("/tmp/ray/ray_current_cluster")
    if running:
        join_ray()
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    join_ray(include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES)
    return True


def join_ray(**options: Any) -> None:
    """``ray.init`` with what is the same whatever cluster it is."""
    # Ray logs before it reads its own setting.
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="error", **options)


def stop_ray() -> None:
    """Ends the cluster that :func:`start_ray` started."""
    ray.shutdown()
