"""The client over real links, with a target that is not there."""

import queue
import time
from array import array
from collections.abc import Iterator
from dataclasses import replace

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.address import LinkDown, Peer, Received
from specrouter_dist.links.control import Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.serving.link_client import LinkClient
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

SECRET = b"0123456789abcdef0123456789abcdef"
SOON_S = 5.0


@pytest.fixture
def client_of_nobody() -> Iterator[LinkClient]:
    gone = Hub("target", 1, "here", SECRET)
    address = gone.address
    gone.close()
    client = LinkClient(Hub("client", 2, "here", SECRET), address)
    yield client
    client.close()


def test_a_request_cancelled_while_the_target_is_lost_ends_at_once(
    client_of_nobody: LinkClient,
) -> None:
    messages: queue.SimpleQueue[Output | Failed] = queue.SimpleQueue()
    prompt, output = array(TOKEN_TYPECODE, [1]), array(TOKEN_TYPECODE)
    client_of_nobody.submit(Submit(5, prompt, SamplingParams(), None, output), messages.put)
    client_of_nobody.cancel(5)
    message = messages.get(timeout=SOON_S)
    assert isinstance(message, Failed)
    assert (message.request, message.kind) == (5, "UnavailableError")
    assert "cancelled" in message.message


def test_what_a_second_target_says_of_the_prompt_again_is_heard_once() -> None:
    rows = [TokenLogprobs(token, -1.0, ()) for token in range(6)]
    prompt, nothing = array(TOKEN_TYPECODE, range(7)), array(TOKEN_TYPECODE)
    messages: queue.SimpleQueue[Output | Failed] = queue.SimpleQueue()
    first, second = (Hub("target", number, "here", SECRET) for number in (1, 2))
    client = LinkClient(Hub("client", 3, "here", SECRET), first.address)
    try:
        sampling = SamplingParams(prompt_logprobs=0)
        client.submit(Submit(5, prompt, sampling, None, nothing), messages.put)
        told = Output(5, 0, nothing, None, (), None, tuple(rows[:4]))
        first.send(submitted(first)[0], [told])
        heard = [messages.get(timeout=SOON_S)]
        client.set_target(second.address)
        peer, _ = submitted(second)
        for part, reason in ((rows[:3], None), (rows[3:], "length")):
            second.send(peer, [Output(5, 0, nothing, reason, (), None, tuple(part))])
            heard.append(messages.get(timeout=SOON_S))
    finally:
        client.close()
        first.close()
        second.close()
    said = [message.prompt_logprobs for message in heard if isinstance(message, Output)]
    assert said == [tuple(rows[:4]), (), tuple(rows[4:])]


def test_a_broken_link_to_a_target_that_lives_is_made_again() -> None:
    """What was lost goes on where it was, also where another request has come meanwhile."""
    messages: queue.SimpleQueue[Output | Failed] = queue.SimpleQueue()
    nothing = array(TOKEN_TYPECODE)
    target = Hub("target", 1, "here", SECRET)
    client = LinkClient(Hub("client", 2, "here", SECRET, max_frame_bytes=2048), target.address)
    try:
        submit = Submit(5, array(TOKEN_TYPECODE, [1]), SamplingParams(), None, nothing)
        client.submit(submit, messages.put)
        peer, _ = submitted(target)
        target.send(peer, [Output(5, 0, array(TOKEN_TYPECODE, [7, 8]), None, (), None)])
        assert isinstance(messages.get(timeout=SOON_S), Output)
        # Longer than the client reads, which closes the link.
        target.send(peer, [Failed(6, "", "x" * 4096)])
        while not any(isinstance(event, LinkDown) for event in target.receive(SOON_S)):
            pass
        client.submit(replace(submit, request=6), messages.put)
        assert submitted(target)[1].request == 6
        client.set_target(target.address)
        _, again = submitted(target)
        assert (again.request, again.output.tolist()) == (5, [7, 8])
        target.send(peer, [Output(5, 2, nothing, "length", (), {})])
        last = messages.get(timeout=SOON_S)
        assert isinstance(last, Output) and last.finish_reason == "length"
    finally:
        client.close()
        target.close()


def submitted(hub: Hub) -> tuple[Peer, Submit]:
    """What was sent to ``hub``, and by whom."""
    end = time.monotonic() + SOON_S
    while time.monotonic() < end:
        for event in hub.receive(SOON_S):
            if isinstance(event, Received):
                (submit,) = event.messages
                assert isinstance(submit, Submit)
                return event.peer, submit
    raise AssertionError("nothing was submitted")
