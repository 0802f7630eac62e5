"""The client over real links, with a target that is not there."""

import queue
from array import array
from collections.abc import Iterator

import pytest

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.address import Peer, Received
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
        first.send(submitter(first), [told])
        heard = [messages.get(timeout=SOON_S)]
        client.set_target(second.address)
        peer = submitter(second)
        for part, reason in ((rows[:3], None), (rows[3:], "length")):
            second.send(peer, [Output(5, 0, nothing, reason, (), None, tuple(part))])
            heard.append(messages.get(timeout=SOON_S))
    finally:
        client.close()
        first.close()
        second.close()
    said = [message.prompt_logprobs for message in heard if isinstance(message, Output)]
    assert said == [tuple(rows[:4]), (), tuple(rows[4:])]


def submitter(hub: Hub) -> Peer:
    """Who has sent a request to ``hub``."""
    while True:
        for event in hub.receive(SOON_S):
            if isinstance(event, Received):
                assert isinstance(event.messages[0], Submit)
                return event.peer
