"""The replicas of the ingress, as one of them sees them."""

import logging
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from specrouter_dist.errors import UnavailableError

logger = logging.getLogger(__name__)

_ANSWER_WITHIN_S = 5.0
"""Prometheus waits for 10 if nobody says otherwise."""


class Replicas:
    """All of this process's deployment, itself among them."""

    def __init__(self) -> None:
        context = serve.get_replica_context()
        self.own_name: str = context.replica_tag
        """Serve's, another one after every start."""
        self._deployment = context.deployment, context.app_name
        self._handle: Any = None

    async def ask(self, method: str) -> list[Any]:
        """What each answers to ``method``; one that has just died is left out.

        Raises:
            UnavailableError: one does not answer in time, or none is known yet.
        """
        if self._handle is None:
            # Not before somebody asks: it listens to Serve's controller.
            self._handle = serve.get_deployment_handle(*self._deployment)
        called = self._handle.broadcast(method)
        try:
            answers = await called.results_async(timeout_s=_ANSWER_WITHIN_S, return_exceptions=True)
        except (TimeoutError, DeploymentUnavailableError) as problem:
            raise UnavailableError(
                f"the service's replicas do not answer: {type(problem).__name__}"
            ) from None
        return [answer for answer in answers if not _is_dead(answer)]


def _is_dead(answer: object) -> bool:
    """Whether it says that its replica is; raises what else went wrong."""
    if isinstance(answer, RayActorError):
        logger.warning("a replica does not answer: %s", type(answer).__name__)
        return True
    if isinstance(answer, Exception):
        raise answer
    return False
