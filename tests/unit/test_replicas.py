"""What is made of the answers of all replicas; that they come: tests/integration/deployed."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from specrouter_dist.errors import UnavailableError

# Ray Serve itself uses pydantic as it was; so it is only imported where that is let pass.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


def ask(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[Any]:
    """What comes of it when Serve's broadcast gives, or raises, ``outcome``."""
    from ray import serve

    from deployments.replicas import Replicas

    async def results_async(*, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert timeout_s > 0 and return_exceptions
        if isinstance(outcome, Exception):
            raise outcome
        return list(outcome)

    def broadcast(method: str) -> Any:
        assert method == "tell"
        return SimpleNamespace(results_async=results_async)

    context = SimpleNamespace(replica_tag="a", deployment="Ingress", app_name="specrouter")
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    handles = {("Ingress", "specrouter"): SimpleNamespace(broadcast=broadcast)}
    monkeypatch.setattr(serve, "get_deployment_handle", lambda *names: handles[names])
    return asyncio.run(Replicas().ask("tell"))


def test_a_replica_that_has_just_died_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, ["a", ActorDiedError(), "c"]) == ["a", "c"]


def test_one_that_does_not_answer_leaves_no_half_of_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnavailableError, match="TimeoutError"):
        ask(monkeypatch, TimeoutError())


def test_a_defect_is_not_taken_for_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError):
        ask(monkeypatch, ["a", AttributeError("tell")])
