"""The file that Perfetto opens."""

import json
from pathlib import Path

import pytest

from specrouter_dist.tracing.chrome import chrome_trace
from specrouter_dist.tracing.picture import draw_shares
from specrouter_dist.tracing.shares import shares_of
from specrouter_dist.tracing.timeline import timeline_of
from tests.unit.tracing.made import a_round, trace


def test_a_round_made_by_hand() -> None:
    later = [trace("idle", [("wait", 3, 4)]), *a_round()]
    content = chrome_trace(timeline_of(later), {"any": 1})
    assert json.loads(json.dumps(content)) == content
    events = content["traceEvents"]
    assert content["otherData"] == {"any": 1}
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {1: "idle", 2: "drafter", 3: "target"}
    forward = next(e for e in events if e["name"] == "forward m" and e["pid"] == 2)
    assert forward == {
        "ph": "X", "name": "forward m", "cat": "forward", "ts": 5.0, "dur": 35.0,
        "pid": 2, "tid": 1,
    }  # fmt: skip
    assert [e for e in events if e["ph"] in "sf"] == [
        {"ph": "s", "id": 1, "name": "proposals", "cat": "frame", "ts": 45.0, "pid": 2, "tid": 1},
        {"ph": "f", "id": 1, "name": "proposals", "cat": "frame", "ts": 75.0, "pid": 3, "tid": 1,
         "bp": "e"},
        {"ph": "s", "id": 2, "name": "truth", "cat": "frame", "ts": 130.0, "pid": 3, "tid": 1},
        {"ph": "f", "id": 2, "name": "truth", "cat": "frame", "ts": 155.0, "pid": 2, "tid": 1,
         "bp": "e"},
    ]  # fmt: skip


def test_times_begin_at_the_first_event() -> None:
    content = chrome_trace(timeline_of([trace("a", [("turn", 70, 71)])]), {})
    assert [e["ts"] for e in content["traceEvents"] if e["ph"] == "X"] == [0.0]


def test_the_bars_are_an_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw_shares(shares_of(timeline_of(a_round())), tmp_path / "a.svg")
    content = (tmp_path / "a.svg").read_text()
    assert "<svg" in content
