"""A mask's step times from those of the parts."""

from pathlib import Path

import pytest

from specrouter_dist.routing.observations import ForwardKey
from specrouter_dist.slim.masks import MaskSpace
from specrouter_dist.slim.times import StepTimes, expected_profile, measure_parts
from specrouter_dist.worker import profiling
from tests.unit.engine.fast_models import load, save, small

KEY = ForwardKey("", 1, 1)


def test_what_is_left_out_is_not_paid_for() -> None:
    parts = {KEY: StepTimes(100.0, 4.0, 6.0)}
    found = expected_profile("slim", parts, frozenset({"1.mlp", "2.mlp", "3.attention"}))
    assert found.is_profile
    ((key, times),) = found.forwards.items()
    assert key == KEY._replace(member="slim")
    assert times.total_us == pytest.approx(84.0)


def test_a_step_takes_some_time_whatever_is_left_out() -> None:
    step = StepTimes(100.0, 60.0, 60.0)
    assert step.without(frozenset({"1.mlp", "2.mlp"})) == pytest.approx(2.0)


def test_parts_are_measured_on_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Batches of several sessions are no other matter.
    monkeypatch.setattr(profiling, "_GRIDS", profiling._GRIDS[:1])
    save(small(num_hidden_layers=4, hidden_size=96, intermediate_size=512), tmp_path)
    found = measure_parts(load(tmp_path, max_sessions=16, kv_tokens=8192), MaskSpace(4))
    assert ForwardKey("", 9, 1) in found and ForwardKey("", 1, 1, 7) in found
    assert all(step.whole_us > 0 and step.attention_us >= 0 for step in found.values())
    assert sum(step.mlp_us for step in found.values()) > 0
