"""Hubs that are closed at the end, and links between two of them over every transport."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from specrouter_dist.links.address import Event, LinkUp, Peer
from specrouter_dist.links.hub import Hub

SECRET = b"a secret of the cluster"
PATIENCE_S = 20.0

E = TypeVar("E")


class Hubs:
    """Makes hubs and closes them."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self._made: list[Hub] = []

    def make(self, worker: str, incarnation: int = 1, secret: bytes = SECRET, **kw: Any) -> Hub:
        """A hub; over gRPC every worker is on a node of its own."""
        over_grpc = self.transport == "grpc"
        node = f"node of {worker}" if over_grpc else "node"
        host = "127.0.0.1" if over_grpc else None
        hub = Hub(worker, incarnation, node, secret, grpc_host=host, **kw)
        self._made.append(hub)
        return hub

    def link(self, a: Hub, b: Hub) -> tuple[Peer, Peer]:
        """Links them, ``a`` dialling; returns ``b`` as ``a`` knows it, and the other way round."""
        if self.transport == "pair":
            Hub.pair(a, b)
        else:
            assert a.connect(b.address) == b.address.peer
        assert wait_for(b, LinkUp) == LinkUp(a.address.peer)
        assert wait_for(a, LinkUp) == LinkUp(b.address.peer)
        return b.address.peer, a.address.peer

    def close(self) -> None:
        for hub in self._made:
            hub.close()


def collect(hub: Hub, done: Callable[[list[Event]], bool]) -> list[Event]:
    """What the hub reports until ``done``."""
    events: list[Event] = []
    until = time.monotonic() + PATIENCE_S
    while not done(events):
        events += hub.receive(max(0.0, until - time.monotonic()))
        assert time.monotonic() < until, f"only {events}"
    return events


def wait_for(hub: Hub, kind: type[E]) -> E:
    """The first event of that kind, which must be the only news."""
    events = collect(hub, lambda events: any(isinstance(event, kind) for event in events))
    assert len(events) == 1, events
    (event,) = events
    assert isinstance(event, kind)
    return event


@pytest.fixture(params=["unix", "grpc"])
def hubs(request: pytest.FixtureRequest) -> Iterator[Hubs]:
    """Over a unix socket and over gRPC."""
    made = Hubs(request.param)
    yield made
    made.close()


@pytest.fixture(params=["unix", "grpc", "pair"])
def all_hubs(request: pytest.FixtureRequest) -> Iterator[Hubs]:
    """Over every transport."""
    made = Hubs(request.param)
    yield made
    made.close()


@pytest.fixture
def unix_hubs() -> Iterator[Hubs]:
    """Over a unix socket."""
    made = Hubs("unix")
    yield made
    made.close()
