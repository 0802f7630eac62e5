"""One-way time of a 64-token frame between two processes, while both ends run torch.

    python -m benchmarks.hops --json

A hop is everything between two engine threads: encode, send, wake the receiver, decode. It is
taken from stamps of CLOCK_MONOTONIC, which the processes of one machine share, in both directions.
Each process has a core of its own and runs torch on one thread:

- ``always``: a thread of each process computes all the time, beside the one that sends and
  receives. The exit code says whether p50 of this is within its bound.
- ``turns``: as in a chain. After a frame arrives the engine thread computes for two units and
  answers, then computes one more unit (it drafts ahead), then waits: all of a hop's code and data
  have left the caches. Frames that come before it waits (another process had its core) would
  measure its forward; they are left out.
- ``none``: nothing but the frames.

``bare`` is the floor: the same number of bytes through a socket pair, with nothing of ours.
Arms are interleaved, percentiles are over all runs. What else runs on the machine decides more
than the link does: compare with the floor of the same call.
"""

import argparse
import json
import multiprocessing as mp
import os
import secrets
import statistics
import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import torch

from benchmarks.environment import environment
from specrouter_dist.links.address import Address, Event, LinkUp, Received
from specrouter_dist.links.frames import EdgeId, Truth
from specrouter_dist.links.hub import Hub

NUM_TOKENS = 64
BARE_BYTES = 300
"""About the size of such a frame."""
WARM_UP = 20
BOUND_US = {"unix": 100.0, "grpc": 400.0}
"""Of p50 while both ends run torch all the time."""
UNIT_MS = 0.5
_HIDDEN, _INTERMEDIATE, _ROWS = 256, 1024, 4
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Arm:
    """One thing to measure."""

    transport: str
    load: str


@dataclass(frozen=True)
class Result:
    """What an arm took, one way, in microseconds."""

    transport: str
    load: str
    num_hops: int
    p50_us: float
    p95_us: float
    min_us: float


class Forward:
    """A little work of torch, as a drafter's layers are."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._up = torch.randn(_HIDDEN, _INTERMEDIATE)
        self._down = torch.randn(_INTERMEDIATE, _HIDDEN)
        self._rows = torch.randn(_ROWS, _HIDDEN)
        self._layers_per_unit = 1
        self._layers_per_unit = self._calibrated()

    def unit(self) -> None:
        """Computes for about ``UNIT_MS``."""
        rows = self._rows
        for _ in range(self._layers_per_unit):
            rows = torch.nn.functional.layer_norm(rows @ self._up @ self._down, (_HIDDEN,))

    def _calibrated(self) -> int:
        times_s = []
        for _ in range(200):
            start_s = time.perf_counter()
            self.unit()
            times_s.append(time.perf_counter() - start_s)
        return max(1, round(UNIT_MS / 1e3 / statistics.median(times_s)))


class HubEnd:
    """One end of a link of ours."""

    def __init__(self, transport: str, control: Connection, *, dials: bool) -> None:
        node = "one" if transport == "unix" or dials else "other"
        name = "dialler" if dials else "listener"
        self._hub = Hub(name, 1, node, control.recv_bytes(), grpc_host="127.0.0.1")
        control.send(self._hub.address.to_dict())
        address = Address.from_dict(control.recv())
        self._peer = self._hub.connect(address) if dials else address.peer
        self._tokens = array("I", range(30000, 30000 + NUM_TOKENS))
        self._edge = EdgeId(secrets.randbits(64), 1, secrets.randbits(64))
        if not isinstance(self._next(_TIMEOUT_S), LinkUp):
            raise RuntimeError("no link")

    def send(self) -> None:
        """Sends a frame with the time in it."""
        message = Truth(self._edge, time.monotonic_ns(), 0, self._tokens, 0)
        self._hub.send(self._peer, [message])

    def receive(self, timeout_s: float) -> int | None:
        """The time in the frame that has arrived; None: none has."""
        event = self._next(timeout_s)
        if event is None:
            return None
        if not isinstance(event, Received):
            raise RuntimeError(f"the other end is gone: {event}")
        (message,) = event.messages
        assert isinstance(message, Truth)
        return message.version

    def close(self) -> None:
        """Closes the link."""
        self._hub.close()

    def _next(self, timeout_s: float) -> Event | None:
        events = self._hub.receive(timeout_s)
        return events[0] if events else None


class BareEnd:
    """One end of a socket pair."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._padding = bytes(BARE_BYTES - 8)

    def send(self) -> None:
        """Sends as many bytes as a frame has, with the time in them."""
        self._connection.send_bytes(time.monotonic_ns().to_bytes(8, "little") + self._padding)

    def receive(self, timeout_s: float) -> int | None:
        """The time in what has arrived; None: nothing has."""
        if timeout_s == 0 and not self._connection.poll(0):
            return None
        return int.from_bytes(self._connection.recv_bytes()[:8], "little")

    def close(self) -> None:
        """Closes the socket."""
        self._connection.close()


End = HubEnd | BareEnd


def play(arm: Arm, num_hops: int, control: Connection, bare: Connection, *, dials: bool) -> None:
    """One end: sends, waits and stamps; gives its list of hops (µs) to ``control``."""
    # A core each, as each member has its device.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1 if dials else 0]})
    forward = Forward()
    end: End = BareEnd(bare)
    if arm.transport != "bare":
        end = HubEnd(arm.transport, control, dials=dials)
    stop = threading.Event()
    background = threading.Thread(target=_keep_busy, args=(forward.unit, stop))
    if arm.load == "always":
        background.start()
    compute = forward.unit if arm.load == "turns" else _nothing
    hops_us = _exchange(end, compute, num_hops + WARM_UP, first=dials)
    stop.set()
    if background.is_alive():
        background.join()
    control.send(hops_us[WARM_UP:])
    control.recv()  # the other end has read everything
    end.close()


def _exchange(end: End, compute: Callable[[], None], num_hops: int, *, first: bool) -> list[float]:
    hops_us: list[float] = []
    if first:
        end.send()
    for number in range(num_hops):
        compute()
        early = end.receive(0)
        if early is None:
            sent_ns = end.receive(_TIMEOUT_S)
            now_ns = time.monotonic_ns()
            if sent_ns is None:
                raise RuntimeError(f"nothing within {_TIMEOUT_S} s")
            hops_us.append((now_ns - sent_ns) / 1e3)
        compute()
        compute()
        if not first or number + 1 < num_hops:
            end.send()
    return hops_us


def _keep_busy(unit: Callable[[], None], stop: threading.Event) -> None:
    while not stop.is_set():
        unit()


def _nothing() -> None:
    pass


def measure(arm: Arm, num_hops: int) -> list[float]:
    """Both directions' hops of one run, in microseconds."""
    context = mp.get_context("spawn")
    controls, ends = [], []
    for dials, bare in zip((True, False), context.Pipe(), strict=True):
        control, theirs = context.Pipe()
        arguments = (arm, num_hops, theirs, bare)
        end = context.Process(target=play, args=arguments, kwargs={"dials": dials})
        end.start()
        controls.append(control)
        ends.append(end)
    if arm.transport != "bare":
        secret = secrets.token_bytes(32)
        for control in controls:
            control.send_bytes(secret)
        addresses = [control.recv() for control in controls]
        for control, address in zip(controls, reversed(addresses), strict=True):
            control.send(address)
    hops_us = [hop for control in controls for hop in control.recv()]
    for control in controls:
        control.send(None)
    for end in ends:
        end.join()
    return hops_us


def summary(arm: Arm, hops_us: list[float]) -> Result:
    """Percentiles of all runs of an arm."""
    cuts = statistics.quantiles(hops_us, n=100, method="inclusive")
    rounded = [round(value, 1) for value in (cuts[49], cuts[94], min(hops_us))]
    return Result(arm.transport, arm.load, len(hops_us), *rounded)


def main() -> int:
    """Prints a table or JSON; exit code 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--runs", type=int, default=3, help="runs of every arm, interleaved")
    parser.add_argument("--hops", type=int, default=300, help="hops per run and direction")
    options = parser.parse_args()
    arms = [Arm(t, load) for t in ("bare", "unix", "grpc") for load in ("turns", "always", "none")]
    hops_us: dict[Arm, list[float]] = {arm: [] for arm in arms}
    about = environment() | {"load_average": os.getloadavg()[0]}
    for _ in range(options.runs):
        for arm in arms:
            hops_us[arm] += measure(arm, options.hops)
    results = [summary(arm, hops_us[arm]) for arm in arms]
    bounded = [r for r in results if r.load == "always" and r.transport in BOUND_US]
    holds = all(r.p50_us <= BOUND_US[r.transport] for r in bounded)
    if options.json:
        rows = [asdict(result) for result in results]
        what = {"tokens": NUM_TOKENS, "runs": options.runs, "bounds_us": BOUND_US, "holds": holds}
        print(json.dumps({**about, **what, "method": "CLOCK_MONOTONIC stamps", "results": rows}))
    else:
        print(f"{about}\n{options.runs} runs, one way, {NUM_TOKENS} tokens, CLOCK_MONOTONIC stamps")
        for r in results:
            print(f"{r.transport:5} {r.load:7} p50 {r.p50_us:7.1f} µs  p95 {r.p95_us:7.1f} µs")
        print("p50 of 'always':", "within" if holds else "ABOVE", BOUND_US)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
