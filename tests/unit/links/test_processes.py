"""Links between processes: one dies, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from array import array

import pytest

from specrouter_dist.links.address import Address, LinkDown, Received
from specrouter_dist.links.frames import EdgeId, Truth
from tests.unit.links.conftest import SECRET, Hubs, wait_for

TRUTH = Truth(EdgeId(1, 2, 3), 1, 0, array("I", [5, 6]), 10)

ECHO = """
import json, sys
from specrouter_dist.links.address import Received
from specrouter_dist.links.hub import Hub
hub = Hub("echo", 1, sys.argv[1], sys.argv[2].encode(), grpc_host="127.0.0.1")
print(json.dumps(hub.address.to_dict()), flush=True)
while True:
    for event in hub.receive(None):
        if isinstance(event, Received):
            hub.send(event.peer, event.messages)
"""


@pytest.mark.parametrize("transport", ["unix", "grpc"])
def test_a_killed_peer_is_reported(transport: str) -> None:
    hubs = Hubs(transport)
    a = hubs.make("a")
    node = a.address.node if transport == "unix" else "elsewhere"
    command = [sys.executable, "-c", ECHO, node, SECRET.decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdout is not None
        try:
            peer = a.connect(Address.from_dict(json.loads(echo.stdout.readline())))
            a.send(peer, [TRUTH])
            seen: list[object] = []
            while Received(peer, [TRUTH]) not in seen:
                seen += a.receive(20) or pytest.fail(f"only {seen}")
        finally:
            os.kill(echo.pid, signal.SIGKILL)
        assert wait_for(a, LinkDown).peer == peer
    hubs.close()


@pytest.mark.parametrize("transport", ["unix", "grpc", "pair"])
def test_closed_hubs_leave_no_thread_and_no_descriptor(transport: str) -> None:
    def one_round() -> None:
        hubs = Hubs(transport)
        a, b = hubs.make("a"), hubs.make("b")
        to_b, _ = hubs.link(a, b)
        a.send(to_b, [TRUTH])
        wait_for(b, Received)
        b.close()
        wait_for(a, LinkDown)
        c = hubs.make("c")
        hubs.link(c, a)
        # Not even a link that nobody has looked at.
        if transport != "pair":
            c.connect(hubs.make("d").address)
        hubs.close()

    one_round()  # gRPC keeps a few descriptors for the process
    threads, descriptors = set(threading.enumerate()), _num_descriptors()
    for _ in range(5):
        one_round()
    for thread in set(threading.enumerate()) - threads:
        thread.join(5.0)  # a stopped gRPC server takes a moment to end its last one
    assert set(threading.enumerate()) <= threads  # fewer: the first round's may end late, too
    assert _num_descriptors() <= descriptors + (2 if transport == "grpc" else 0)


def _num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
