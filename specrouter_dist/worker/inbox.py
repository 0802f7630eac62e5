"""Where what arrives at a worker goes: to its chains, its requests, its readers or its clients."""

import logging
from collections.abc import Callable

from specrouter_dist.links.address import (
    DialRefused,
    Event,
    LinkDown,
    LinkUp,
    Peer,
    Posted,
    Received,
)
from specrouter_dist.links.control import (
    Attach,
    Cancel,
    Detach,
    Failed,
    Output,
    Refused,
    Replan,
    Report,
    Settled,
    Submit,
    WireMessage,
)
from specrouter_dist.speculation.messages import Proposals, Truth
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.outbox import Outbox
from specrouter_dist.worker.posts import Call, SetDirectory, SetPlans
from specrouter_dist.worker.reading import Readers
from specrouter_dist.worker.requests import Requests
from specrouter_dist.worker.session import Session

logger = logging.getLogger(__name__)


class Inbox:
    """Of one worker, on its engine thread.

    Args:
        worker: its name.
        chains: the sessions of its members.
        outbox: for what is answered at once.
        requests: those of the target; None: it is elsewhere.
        readers: of settled texts.
        touch: called with sessions that something has happened to.
        deliver: takes what goes to clients of this process.
        clock: seconds.
    """

    def __init__(
        self,
        worker: str,
        chains: Chains,
        outbox: Outbox,
        requests: Requests | None,
        readers: Readers,
        touch: Callable[[Session], None],
        deliver: Callable[[Output | Failed], None],
        clock: Callable[[], float],
    ) -> None:
        self._worker = worker
        self._chains = chains
        self._outbox = outbox
        self._requests = requests
        self._readers = readers
        self._touch = touch
        self._deliver = deliver
        self._clock = clock

    def on_event(self, event: Event) -> None:
        """What the hub has received."""
        match event:
            case Received(peer, messages):
                for message in messages:
                    self.on_message(peer, message)
            case LinkDown(peer, error):
                logger.info("link to %s is down: %s", peer.worker, error)
                self.on_peer_lost(peer)
            case Posted(item):
                self._on_posted(item)
            case DialRefused(error):
                logger.warning("a dial was refused: %s", error)
            case LinkUp():
                pass

    def _on_posted(self, item: object) -> None:
        match item:
            case Submit() | Cancel():
                self.on_message(None, item)
            case SetDirectory(addresses):
                self._chains.set_directory(addresses)
            case SetPlans(table) if self._requests is not None:
                self._requests.set_plans(table)
            case Call(function):
                function()
            case _:
                raise TypeError(f"nobody posts {type(item).__name__} here")

    def on_message(self, peer: Peer | None, message: WireMessage) -> None:
        """``peer``: who sent it; None: somebody of this process."""
        chains = self._chains
        match message:
            case Proposals(edge=edge):
                if (session := chains.upstreams.by_up_edge.get(edge)) is not None:
                    session.model_stage.on_proposals(message)
                    self._touch(session)
            case Truth(edge=edge):
                if (session := chains.by_down_edge.get(edge)) is not None:
                    session.stage.on_truth(message)
                    self._touch(session)
            case Report():
                chains.upstreams.on_report(message)
            case Attach() | Replan() | Refused() | Detach():
                self._on_chain(peer, message)
            case Settled():
                self._readers.add(message)
            case _:
                self._on_request(peer, message)

    def _on_chain(self, peer: Peer | None, message: Attach | Replan | Refused | Detach) -> None:
        match message:
            case Attach():
                self._chains.on_attach(peer, message)
            case Replan():
                self._chains.on_replan(message)
            case Refused():
                self._chains.upstreams.on_refused(message)
            case Detach():
                self._chains.on_detach(message, self._clock())

    def _on_request(self, peer: Peer | None, message: WireMessage) -> None:
        match message:
            case Submit() if self._requests is not None:
                self._requests.on_submit(peer, message)
            case Submit(request=request):
                text = f"worker {self._worker} does not hold the target"
                self._outbox.put(peer, Failed(request, "UnavailableError", text))
            case Cancel() if self._requests is not None:
                self._requests.on_cancel(message)
            case Output() | Failed() if peer is None:
                self._deliver(message)
            case _:
                logger.warning("%s does not go to workers", type(message).__name__)

    def on_peer_lost(self, peer: Peer) -> None:
        """Nothing comes from there any more."""
        self._chains.on_peer_lost(peer, self._clock())
        if self._requests is not None:
            self._requests.on_peer_lost(peer)
