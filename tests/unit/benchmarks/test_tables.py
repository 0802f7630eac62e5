"""From a result to a table and a plot."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.tables import plot, to_markdown


def arm(name: str, system: str, median: float, acceptance: float | None) -> dict[str, Any]:
    return {
        "arm": name,
        "system": system,
        "tokens_per_second": {"median": median, "low": median - 1, "high": median + 2},
        "time_to_first_token_ms": {"p50": 8.0, "p95": 9.5, "p99": 10.0},
        "time_per_output_token_ms": {"p50": 2.0, "p95": 2.5, "p99": 3.0},
        "draft_acceptance_rate": acceptance,
        "cpu_ms_per_token": 2.25,
        "rss_mib": 512.4,
    }


RESULT = {
    "arguments": {"pool": "tiny", "split": "dev", "passes": 7, "max_tokens": 96},
    "cpu": "A processor",
    "num_cpus": 2,
    "commit": "abc1234",
    "versions": {"torch": "2.13.0"},
    "worker_versions": {"vllm": {"vllm": "0.32.0"}},
    "absent": {"vllm suffix": "vllm suffix: ended with code 1\n  Traceback\n  ImportError: none"},
    "results": {
        "T=0.0": {
            "arms": [arm("ours auto", "ours", 400, 0.5), arm("vllm alone", "vllm", 200, None)],
            "ratios": {"ours auto": {"vllm alone": {"median": 2, "low": 1.9, "high": 2.1}}},
        }
    },
}


def test_a_table_says_what_was_measured_where_and_what_is_absent() -> None:
    lines = to_markdown(RESULT).splitlines()
    assert "A processor, 2 CPUs; commit abc1234; 7 passes of 96 new tokens at most." in lines
    assert "- vllm: vllm 0.32.0" in lines
    latencies = "8.00 / 9.50 / 10.00 | 2.00 / 2.50 / 3.00"
    assert f"| ours auto | 400.0 [399.0, 402.0] | {latencies} | 0.50 | 2.25 | 512 |" in lines
    assert f"| vllm alone | 200.0 [199.0, 202.0] | {latencies} |  | 2.25 | 512 |" in lines
    assert "- ours auto over vllm alone: **2.00 [1.90, 2.10]**" in lines
    assert "- vllm suffix: vllm suffix: ended with code 1: ImportError: none" in lines
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1


def test_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out, image = (tmp_path / name for name in ("r.json", "R.md", "p.svg"))
    source.write_text(json.dumps(RESULT), encoding="utf-8")
    command = ["tables", str(source), "--out", str(out), "--plot", str(image)]
    monkeypatch.setattr(sys, "argv", command)
    tables.main()
    text = out.read_text(encoding="utf-8")
    assert text.startswith("# Results") and "## tiny, dev" in text
    assert "<svg" in image.read_text(encoding="utf-8")


def test_a_plot_without_matplotlib_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        plot(RESULT, tmp_path / "p.svg")
