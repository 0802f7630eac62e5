"""The messages of a tick: one frame per receiver, those that somebody waits for first."""

from array import array
from collections.abc import Sequence

from specrouter_dist.errors import LinkError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import Output, WireMessage
from specrouter_dist.speculation.messages import EdgeId, Truth
from specrouter_dist.worker.outbox import Outbox

DRAFTER, CLIENT = Peer("small", 1), Peer("client", 2)
TRUTH = Truth(EdgeId(1, 1, 1), 1, 0, array("I", [1]), 8)
OUTPUT = Output(1, 0, array("I", [1]), None, (), None)


class FakeHub:
    """Keeps what was sent."""

    def __init__(self, *gone: Peer) -> None:
        self.gone = gone
        self.sent: list[tuple[Peer, list[WireMessage]]] = []

    def send(self, peer: Peer, messages: Sequence[WireMessage]) -> None:
        if peer in self.gone:
            raise LinkError(f"no link with {peer}")
        self.sent.append((peer, list(messages)))


def test_the_drafter_hears_before_the_client_whatever_was_put_first() -> None:
    hub = FakeHub()
    outbox = Outbox(hub, lambda peer: None)  # type: ignore[arg-type]
    outbox.put(CLIENT, OUTPUT)
    outbox.put(DRAFTER, TRUTH)
    outbox.put(CLIENT, OUTPUT)
    outbox.flush()
    assert hub.sent == [(DRAFTER, [TRUTH]), (CLIENT, [OUTPUT, OUTPUT])]


def test_what_is_put_while_a_loss_is_told_goes_out_in_the_same_flush() -> None:
    hub = FakeHub(DRAFTER)
    outbox = Outbox(hub, lambda peer: outbox.put(CLIENT, OUTPUT))  # type: ignore[arg-type]
    outbox.put(DRAFTER, TRUTH)
    outbox.flush()
    assert hub.sent == [(CLIENT, [OUTPUT])]
