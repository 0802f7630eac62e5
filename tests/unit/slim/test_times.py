"""A mask's step times from those of the parts."""

from pathlib import Path

import pytest

from specrouter_dist.routing.observations import ForwardKey
from specrouter_dist.slim import times
from specrouter_dist.slim.masks import MaskSpace
from specrouter_dist.slim.times import (
    StepTimes,
    expected_profile,
    measure_masked,
    measure_parts,
    times_of,
)
from specrouter_dist.worker import profiling
from tests.unit.engine.fast_models import load, save, small

KEY = ForwardKey("", 1, 1)


def test_what_is_left_out_is_not_paid_for() -> None:
    parts = {KEY: StepTimes(100.0, 4.0, 6.0)}
    found = expected_profile("slim", parts, frozenset({"1.mlp", "2.mlp", "3.attention"}))
    assert found.is_profile
    ((key, expected),) = found.forwards.items()
    assert key == KEY._replace(member="slim")
    assert expected.total_us == pytest.approx(84.0)


def test_a_step_takes_some_time_whatever_is_left_out() -> None:
    step = StepTimes(100.0, 60.0, 60.0)
    assert step.without(frozenset({"1.mlp", "2.mlp"})) == pytest.approx(2.0)


def test_parts_are_measured_on_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Batches of several sessions are no other matter.
    monkeypatch.setattr(profiling, "_GRIDS", profiling._GRIDS[:1])
    save(small(num_hidden_layers=4, hidden_size=96, intermediate_size=512), tmp_path)
    monkeypatch.setattr(times, "_TURNS", 2)
    target = load(tmp_path, max_sessions=16, kv_tokens=8192)
    known = times_of(profiling.profile("target", target, drafts=False), "target")
    found = measure_parts(target, MaskSpace(4), known)
    assert ForwardKey("", 9, 1) in found and ForwardKey("", 1, 1, 7) in found
    assert all(step.whole_us > 0 and step.attention_us >= 0 for step in found.values())
    assert sum(step.mlp_us for step in found.values()) > 0


def test_times_are_told_as_when_the_whole_target_was_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the machine had become ten times faster since."""
    monkeypatch.setattr(profiling, "_GRIDS", profiling._GRIDS[:1])
    monkeypatch.setattr(times, "_TURNS", 2)
    save(small(num_hidden_layers=4), tmp_path)
    target = load(tmp_path, max_sessions=16, kv_tokens=8192)
    now_us = times_of(profiling.profile("target", target, drafts=False), "target")
    before_us = {key: 10 * us for key, us in now_us.items()}
    (found,) = measure_masked("slim", target, [frozenset({"1.mlp"})], before_us)
    assert found.forwards[KEY._replace(member="slim")].total_us > 3 * now_us[KEY]
