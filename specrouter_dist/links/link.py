"""One link: the handshake, then messages both ways, over whatever moves frames."""

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from specrouter_dist.errors import FrameError, LinkError
from specrouter_dist.links.address import Peer
from specrouter_dist.links.control import WireMessage
from specrouter_dist.links.decoding import decode
from specrouter_dist.links.hello import MAX_HELLO_BYTES, NONCE_BYTES, Credentials
from specrouter_dist.links.outbox import Outbox, OutboxFullError


class Pipe(Protocol):
    """Moves the frames of one link; the engine thread calls it.

    It takes from the link's outbox, and hands what arrives (no frame longer than the link's
    ``max_frame_bytes``) to :meth:`Link.on_frame` and its end to :meth:`Link.on_end`, both on the
    engine thread.
    """

    def send(self, messages: Sequence[WireMessage]) -> None:
        """Sends one frame now, or as soon as there is room.

        Raises:
            FrameError: one message alone is larger than a frame; nothing was queued.
            OutboxFullError: the outbox is full.
        """
        ...

    def flush(self) -> None:
        """The outbox has something new."""
        ...

    def close(self) -> None:
        """Frees everything; nothing is handed over afterwards. Idempotent."""
        ...


class AnyLink(Protocol):
    """A duplex link to one peer. Engine thread only."""

    @property
    def peer(self) -> Peer | None:
        """None until the dialler has said who it is."""
        ...

    @property
    def dialled(self) -> bool:
        """Whether this side dialled."""
        ...

    @property
    def up(self) -> bool:
        """Whether the peer has proved itself."""
        ...

    def send(self, messages: Sequence[WireMessage]) -> None:
        """Queues one frame; it goes at once when it can."""
        ...

    def fail(self, error: LinkError) -> None:
        """Closes the link and reports why, once."""
        ...

    def close(self) -> None:
        """Closes the link without a report. Idempotent."""
        ...


class Owner(Protocol):
    """Whom a link reports to."""

    def on_up(self, link: AnyLink) -> None: ...

    def on_messages(self, link: AnyLink, messages: list[WireMessage]) -> None: ...

    def on_down(self, link: AnyLink, error: LinkError) -> None: ...


class Link:
    """A link whose messages travel as bytes."""

    def __init__(
        self,
        owner: Owner,
        credentials: Credentials,
        outbox: Outbox,
        *,
        listener: Peer | None,
        max_frame_bytes: int,
        vocab_size: int | None,
    ) -> None:
        """``listener``: who was dialled; None on the listener's side."""
        self.peer = listener
        self.dialled = listener is not None
        self.up = False
        self._owner = owner
        self._credentials = credentials
        self._outbox = outbox
        self.max_frame_bytes = MAX_HELLO_BYTES
        """Longest frame that may arrive now; the pipe refuses longer ones."""
        self._max_frame_bytes_when_up = max_frame_bytes
        self._vocab_size = vocab_size
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._pipe: Pipe | None = None

    def start(self, make_pipe: Callable[["Link", Outbox], Pipe]) -> None:
        """Attaches the pipe; the dialler speaks first."""
        if self.peer is not None:
            self._outbox.put_hello(self._credentials.dial(self._nonce, self.peer))
        self._pipe = make_pipe(self, self._outbox)
        self._pipe.flush()

    def send(self, messages: Sequence[WireMessage]) -> None:
        """Queues one frame. ``FrameError``: one message alone is larger than that."""
        if self._pipe is None:
            return
        try:
            self._pipe.send(messages)
        except OutboxFullError as error:
            self.fail(error)

    def check_length(self, num_bytes: int) -> None:
        """``FrameError``: a frame of that length is not to be read."""
        if num_bytes > self.max_frame_bytes:
            raise FrameError(
                f"a frame has at most {self.max_frame_bytes} bytes now, got {num_bytes}"
            )

    def on_frame(self, payload: bytes | memoryview) -> None:
        """A whole frame has arrived."""
        if self._pipe is None:
            return
        try:
            if self.up:
                self._owner.on_messages(self, decode(payload, vocab_size=self._vocab_size))
            else:
                self._shake_hands(payload)
        except FrameError as error:
            self.fail(error)

    def on_end(self, error: LinkError) -> None:
        """The pipe is broken or at its end."""
        if not self.up:
            error = LinkError(f"no handshake: {error}; is the secret the same?")
        self.fail(error)

    def fail(self, error: LinkError) -> None:
        """Closes the link and reports why, once."""
        if self._pipe is not None:
            self.close()
            self._owner.on_down(self, error)

    def close(self) -> None:
        """Closes the link without a report."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def _shake_hands(self, hello: bytes | memoryview) -> None:
        if self.peer is not None:
            self._credentials.check_answer(hello, self._nonce, self.peer)
        else:
            self.peer, answer = self._credentials.admit(hello)
            self._outbox.put_hello(answer)
        self.up = True
        self.max_frame_bytes = self._max_frame_bytes_when_up
        # Reported first: what the pipe then finds broken belongs to a known peer.
        self._owner.on_up(self)
        self._outbox.release()
        if self._pipe is not None:
            self._pipe.flush()
