"""What tells messages apart, so that a frame is found where it arrives."""

from array import array
from dataclasses import replace

from specrouter_dist.links.control import Detach
from specrouter_dist.speculation.messages import EdgeId, Proposals, Truth
from specrouter_dist.worker.tracing import _key_of

EDGE = EdgeId(1, 2, 3)


def test_messages_that_differ_have_keys_that_differ() -> None:
    truth = Truth(EDGE, 1, 0, array("I"), 9)
    proposals = Proposals(EDGE, 1, 0, 5, 77, array("I", (4,)), True)
    others = [
        truth,
        replace(truth, version=2),
        replace(truth, edge=EdgeId(1, 3, 3)),
        proposals,
        replace(proposals, version_seen=2),
        replace(proposals, start=6),
        replace(proposals, tokens=array("I")),
    ]
    assert len({_key_of(message) for message in others}) == len(others)
    assert _key_of(replace(truth, limit=8)) == _key_of(truth)
    assert _key_of(Detach(EDGE, True)) is None
