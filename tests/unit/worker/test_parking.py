"""Parked sessions: each ends, or is taken again."""

from array import array

import pytest

from specrouter_dist.config import LookupMember, SamplingParams
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, EdgeId
from specrouter_dist.worker.lookup import LookupHost
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.parking import LEASE_S, Parking
from specrouter_dist.worker.session import Session

HOST = LookupHost(LookupMember(kind="lookup"))
ONE, OTHER = EdgeId(7, 1, 1), EdgeId(7, 2, 1)


def session(request: int = 7) -> Session:
    sampling = SamplingParams()
    opening = Opening(array(TOKEN_TYPECODE, [1, 2]), 2, 9, sampling)
    stage, slot = HOST.open(opening, StopIds(()))
    return Session(
        id=request,
        member=HOST,
        stage=stage,
        slot=slot,
        sampling=sampling,
        prompt_tokens=2,
        end=9,
        traffic=GREEDY,
    )


@pytest.fixture
def parking() -> Parking:
    return Parking()


def test_two_sessions_of_one_request_at_one_member_both_end(parking: Parking) -> None:
    """A lookup below two members in turn."""
    first, second = session(), session()
    parking.add(first, ONE, 0.0)
    parking.add(second, OTHER, 1.0)
    assert parking.next_end_s == LEASE_S
    assert parking.take_expired(LEASE_S) == [first]
    assert parking.take_expired(LEASE_S + 1.0) == [second]
    assert parking.next_end_s is None


def test_the_newest_is_taken_again_and_the_other_is_still_there(parking: Parking) -> None:
    first, second, others = session(), session(), session(8)
    for one, edge in ((first, ONE), (second, OTHER), (others, EdgeId(8, 3, 1))):
        parking.add(one, edge, 0.0)
    assert parking.take(7, HOST.name) is second
    assert parking.take_used_by(ONE) == [first]
    assert parking.take(7, HOST.name) is None
    assert parking.take(8, HOST.name) is others
