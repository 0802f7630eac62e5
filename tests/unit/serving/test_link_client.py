"""The client over real links, with a target that is not there."""

import queue
from array import array
from collections.abc import Iterator

import pytest

from specrouter_dist.config import SamplingParams
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
