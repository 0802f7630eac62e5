"""What a search that was killed finds again."""

from pathlib import Path

import pytest

from specrouter_dist.errors import ConfigError
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes, Observations
from specrouter_dist.slim.scoring import Score
from specrouter_dist.slim.times import StepTimes
from specrouter_dist.slim.trials import Times, Trials

KNOWN = Observations(
    is_profile=True, forwards={ForwardKey("small", 4, 1, 3): ForwardTimes(1, 120.5)}
)
PARTS = {ForwardKey("", 1, 1): StepTimes(100.0, 4.0, 6.0)}
SCORE = Score(0.9, 0.6, 1234.5, ("small", "slim", "target"), (3, 4))
MASKS = (("1.mlp", "2.attention"), ("1.attention", "3.mlp"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of a search that has tried two masks."""
    path = tmp_path / "kept" / "slim-a.jsonl"
    with Trials(path, "a") as trials:
        trials.begin(Times.of(KNOWN, PARTS))
        for mask in MASKS:
            trials.add(frozenset(mask), mask, SCORE)
    return path


def test_all_is_found_again(file: Path) -> None:
    trials = Trials(file, "a")
    assert trials.scores == dict.fromkeys(map(frozenset, MASKS), SCORE)
    assert trials.times is not None
    assert trials.times.profile == KNOWN
    assert trials.times.of_parts == PARTS


@pytest.mark.parametrize("num_cut", [1, 5, 60])
def test_a_line_that_was_cut_off_is_written_anew(file: Path, num_cut: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-num_cut])
    with Trials(file, "a") as trials:
        assert list(trials.scores) == [frozenset(MASKS[0])]
        trials.add(frozenset(MASKS[1]), MASKS[1], SCORE)
    assert file.read_bytes() == whole


def test_nothing_is_known_where_the_first_line_was_cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])
    trials = Trials(file, "a")
    assert (trials.times, trials.scores) == (None, {})


def test_the_file_of_another_search_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="of another search; delete the file"):
        Trials(file, "b")


@pytest.mark.parametrize("line", [b"{}\n", b"\xff\n", b'{"mask": ["1.mlp"], "score": 3}\n'])
def test_a_damaged_line_is_named(file: Path, line: bytes) -> None:
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(ConfigError, match="line 4: no line of a search; delete the file"):
        Trials(file, "a")
