"""Chains of toy members on a faulty network: the invariants of DESIGN section 4."""

import os
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.speculation.drivers import run
from tests.unit.speculation.scenarios import Scenario, scenarios

NUM_EXAMPLES = int(os.environ.get("SPECROUTER_PROTOCOL_EXAMPLES", "1000"))

SCHEDULES = st.builds(
    lambda seed, num_events: Random(seed).randbytes(2 * num_events),
    st.integers(0, 2**32 - 1),
    st.sampled_from((60, 150, 300, 20, 0)),
)
"""Expanded from a seed, because bytes that Hypothesis draws one by one are mostly equal."""
PROTOCOL = settings(
    max_examples=NUM_EXAMPLES,
    derandomize=NUM_EXAMPLES <= 1000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@PROTOCOL
@given(scenarios(), SCHEDULES, st.booleans())
def test_the_invariants_hold_whatever_the_network_does(
    scenario: Scenario, schedule: bytes, loses_air: bool
) -> None:
    run(scenario, schedule, loses_air=loses_air)
