"""Requests of this process: answered, or failed with the engine."""

from array import array

from specrouter_dist.config import SamplingParams
from specrouter_dist.links.control import Cancel, Failed, Output, Submit
from specrouter_dist.worker.local import LocalClient


class DeadWorker:
    """Takes requests and says nothing."""

    def submit(self, message: Submit | Cancel) -> None:
        pass


def submit(number: int) -> Submit:
    return Submit(number, array("I", [1]), SamplingParams(), None, array("I"))


def test_requests_fail_with_the_engine_those_that_come_later_too() -> None:
    client = LocalClient()
    client.worker = DeadWorker()  # type: ignore[assignment]
    got: list[Output | Failed] = []
    client.submit(submit(1), got.append)
    assert got == []
    client.fail(ValueError("nan"))
    client.submit(submit(2), got.append)
    assert [(m.request, m.kind) for m in got if isinstance(m, Failed)] == [
        (1, "UnavailableError"),
        (2, "UnavailableError"),
    ]
    assert "nan" in got[0].message  # type: ignore[union-attr]
