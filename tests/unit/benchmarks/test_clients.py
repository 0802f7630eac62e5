"""What benchmarks of real clients make of what they have seen; no client runs."""

from pathlib import Path

import pytest

from benchmarks.clients.service import write_pool
from benchmarks.clients.users import compare_memory, is_flat
from benchmarks.layers import LAYERS, Timed
from benchmarks.service_price import summarise, to_markdown
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import ModelMember


def test_memory_is_compared_behind_the_warm_up() -> None:
    samples = [(float(s), {"worker": 100.0 + min(s, 25), "proxy": 50.0}) for s in range(0, 100, 2)]
    found = compare_memory(samples, 100.0)
    flat = {"start_mib": 125.0, "end_mib": 125.0, "most_mib": 125.0, "mib_per_minute": 0.0}
    assert found["worker"] == flat
    assert is_flat(found)
    assert found["all"]["end_mib"] == 175.0
    growing = [(s, {"worker": 100.0 + s}) for s, _ in samples]
    leaking = compare_memory(growing, 100.0)
    assert leaking["worker"]["end_mib"] - leaking["worker"]["start_mib"] > 60.0
    assert leaking["all"]["mib_per_minute"] == pytest.approx(60.0)
    assert not is_flat(leaking)
    too_few = compare_memory(samples[:14], 100.0)
    assert too_few == {}
    assert not is_flat(too_few)


def test_a_process_that_is_new_has_no_row_of_its_own() -> None:
    samples = [(float(s), {"worker": 1.0, **({"late": 9.0} if s > 60 else {})}) for s in range(99)]
    found = compare_memory(samples, 99.0)
    assert "late" not in found
    assert found["all"]["end_mib"] == 10.0


@pytest.mark.parametrize("members", [None, ["target"]])
def test_a_written_pool_is_the_same_but_for_what_was_asked(
    tmp_path: Path, members: list[str] | None
) -> None:
    pool, _ = open_pool("tiny", dtype=None)
    file = write_pool(pool, tmp_path / "pool.yaml", members=members, prefix_cache=False)
    written, _ = open_pool(str(file), dtype=None)
    names = [member.name for member in written.config.members]
    assert names == (members or [member.name for member in pool.config.members])
    for member in written.config.members:
        if isinstance(member, ModelMember):
            assert not member.prefix_cache
            assert written.directories[member.name] == pool.directories[member.name]
    assert written.config.name == pool.config.name


def test_a_layer_is_compared_with_the_one_below_pair_by_pair() -> None:
    answers = {
        name: [
            Timed("same" if turn else name, 10, 10.0 * turn + added, 100.0 + added)
            for turn in range(5)
        ]
        for name, added in zip(LAYERS, (1.0, 2.0, 4.0, 8.0), strict=True)
    }
    rows = summarise(answers)
    assert [rows[name]["added_first_token_ms"].median for name in LAYERS[1:]] == [1.0, 2.0, 4.0]
    assert rows["actors"]["times_below"].median == pytest.approx(101 / 102)
    assert {rows[name]["num_differing"] for name in LAYERS[1:]} == {1}
    table = to_markdown(("small", "target"), rows)
    assert table.count("\n| ") == 2 + len(LAYERS)
