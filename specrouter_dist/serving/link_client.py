"""A client of a target in another process: a plain thread with links of its own."""

import logging
import threading
import time
from array import array
from dataclasses import dataclass, field, replace

from specrouter_dist.errors import LinkError
from specrouter_dist.links.address import Address, LinkDown, Peer, Posted, Received
from specrouter_dist.links.control import Cancel, Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.serving.client import Receiver
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray

logger = logging.getLogger(__name__)

TARGET_LOST_S = 30.0
"""How long requests wait for a lost target before they fail."""
_TICK_S = 0.5


@dataclass(slots=True)
class _Open:
    submit: Submit
    receive: Receiver
    output: TokenArray = field(default_factory=lambda: array(TOKEN_TYPECODE))
    """What has come so far, over all targets."""
    num_scored: int = 0
    """Tokens of the prompt whose log-probabilities have come."""
    num_repeated: int = 0
    """So many of them come once more, from the target that the request was submitted to again."""
    lost_at: float | None = None
    """When its target was lost, until it is submitted again."""

    def unseen(self, message: Output) -> Output:
        """The message without log-probabilities of the prompt that have come before."""
        rows = message.prompt_logprobs[self.num_repeated :]
        self.num_repeated -= len(message.prompt_logprobs) - len(rows)
        self.num_scored += len(rows)
        return replace(message, prompt_logprobs=rows)


@dataclass(frozen=True, slots=True)
class _SetTarget:
    address: Address


@dataclass(frozen=True, slots=True)
class _Close:
    pass


class LinkClient:
    """Requests over a link. When the target comes back after a loss, they go on where they were.

    Args:
        hub: the client's own links; closed with it.
        target: where the target's worker listens.
    """

    def __init__(self, hub: Hub, target: Address) -> None:
        self._hub = hub
        self._target = target
        self._peer: Peer | None = None
        self._open: dict[int, _Open] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="link-client", daemon=True)
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether the target has been reached and not been lost since."""
        return self._peer is not None

    # -- from any thread -----------------------------------------------------------------------

    def submit(self, submit: Submit, receive: Receiver) -> None:
        """Sends the request; its messages go to ``receive`` until the last one."""
        self._hub.post(_Open(submit, receive))

    def cancel(self, request: int) -> None:
        """Frees every level of the request; its last message says that it is over."""
        self._hub.post(Cancel(request))

    def set_target(self, address: Address) -> None:
        """Where the target is now; lost requests are submitted again, with their output.

        The same address again is news too: it is the link that was lost then.
        """
        self._hub.post(_SetTarget(address))

    def close(self) -> None:
        """Ends the thread and its links."""
        self._hub.post(_Close())
        self._thread.join()

    # -- the client's thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                waiting = any(opened.lost_at is not None for opened in self._open.values())
                for event in self._hub.receive(_TICK_S if waiting else None):
                    match event:
                        case Posted(item):
                            self._on_posted(item)
                        case Received(_, messages):
                            for message in messages:
                                if isinstance(message, Output | Failed):
                                    self._on_message(message)
                        case LinkDown(peer, error) if peer == self._peer:
                            logger.warning("the target's link is down: %s", error)
                            self._on_lost()
                        case _:
                            pass
                self._give_up()
        finally:
            self._hub.close()

    def _on_posted(self, item: object) -> None:
        match item:
            case _Open():
                self._open[item.submit.request] = item
                self._send(item)
            case Cancel(request) if request in self._open:
                if self._peer is not None and self._open[request].lost_at is None:
                    self._hub.send(self._peer, [item])
                else:
                    # Lost with its target: nothing is left to be freed.
                    text = "it was cancelled while the target was lost"
                    self._on_message(Failed(request, "UnavailableError", text))
            case Cancel():
                pass
            case _SetTarget(address):
                self._look_at(address)
            case _Close():
                self._closing = True
            case _:
                raise TypeError(f"nobody posts {type(item).__name__} here")

    def _look_at(self, address: Address) -> None:
        """Submits again what was lost: with a target that has moved, everything."""
        has_moved = address != self._target
        if has_moved:
            self._target, self._peer = address, None
        for opened in list(self._open.values()):
            if has_moved or opened.lost_at is not None:
                self._send(opened)

    def _send(self, opened: _Open) -> None:
        try:
            self._peer = self._hub.connect(self._target)
            self._hub.send(self._peer, [replace(opened.submit, output=opened.output)])
            opened.lost_at = None
            opened.num_repeated = opened.num_scored
        except LinkError as error:
            logger.warning("the target cannot be reached: %s", error)
            if opened.lost_at is None:
                opened.lost_at = time.monotonic()

    def _on_message(self, message: Output | Failed) -> None:
        opened = self._open.get(message.request)
        if opened is None:
            return
        if isinstance(message, Output):
            opened.output.extend(message.tokens)
            if message.prompt_logprobs:
                message = opened.unseen(message)
        if isinstance(message, Failed) or message.finish_reason is not None:
            del self._open[message.request]
        opened.receive(message)

    def _on_lost(self) -> None:
        self._peer = None
        now = time.monotonic()
        for opened in self._open.values():
            opened.lost_at = now

    def _give_up(self) -> None:
        now = time.monotonic()
        for opened in list(self._open.values()):
            if opened.lost_at is not None and now - opened.lost_at > TARGET_LOST_S:
                text = f"the target was lost and is not back after {TARGET_LOST_S:.0f} s"
                self._on_message(Failed(opened.submit.request, "UnavailableError", text))
