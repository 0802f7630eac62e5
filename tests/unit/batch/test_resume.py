"""A run goes on behind the whole rows of its own output, and of no other."""

import io
import json

import pytest

from specrouter_dist.batch.keys import Settings
from specrouter_dist.batch.lines import read_lines
from specrouter_dist.batch.resume import Done, find_done
from specrouter_dist.errors import RequestError
from tests.unit.batch.made import INPUT, SETTINGS, outputs


def done(output: bytes, content: bytes = INPUT, settings: Settings = SETTINGS) -> Done:
    return find_done(io.BytesIO(output), read_lines(io.BytesIO(content)), settings.digest())


def test_cut_at_any_byte_it_goes_on_to_the_same_output() -> None:
    rows = outputs()
    whole = b"".join(rows)
    for length in range(len(whole) + 1):
        found = done(whole[:length])
        assert found.num_bytes == sum(map(len, rows[: found.num_rows]))
        assert length - found.num_bytes < len((*rows, b"\n")[found.num_rows])
        assert whole[: found.num_bytes] + b"".join(rows[found.num_rows :]) == whole
        failures = [json.loads(row)["error"] is not None for row in rows[: found.num_rows]]
        assert found.num_failed == sum(failures)


def test_ids_depend_on_nothing_but_input_and_settings() -> None:
    plain, openai, *_ = [json.loads(row) for row in outputs()]
    key = plain["request_id"].removeprefix("req_")
    assert next(iter(plain)) == "request_id"
    assert len({row[:64] for row in outputs()}) == 5
    assert openai["response"]["body"]["id"] == openai["id"].replace("batch_req_", "cmpl-")
    assert openai["response"]["request_id"] == openai["id"].replace("batch_req_", "req_")
    assert key.split("-")[0] == SETTINGS.digest()
    assert outputs() == outputs()


def test_further_keys_do_not_replace_ours() -> None:
    row = json.loads(outputs()[3])
    assert row["request_id"].startswith("req_")
    assert row["error"] is None
    assert json.loads(outputs()[0])["id"] == 1


REFUSED = [
    (INPUT.replace(b'"a"', b'"A"'), SETTINGS, "made of another input than line 1 holds now"),
    (INPUT.replace(b"wrong", b"wrung"), SETTINGS, "line 3 of the output: made of another input"),
    (INPUT.split(b"\n", 1)[1], SETTINGS, "line 1 of the output: made of another input"),
    (INPUT[: INPUT.index(b"wrong")], SETTINGS, "the input has only 2 rows"),
    (INPUT, Settings("other", 5, {"max_tokens": 4}), "made with another pool, --seed or other"),
    (INPUT, Settings("hash", 6, {"max_tokens": 4}), "made with another pool, --seed or other"),
    (INPUT, Settings("hash", 5, {"max_tokens": 5}), "made with another pool, --seed or other"),
    (INPUT, Settings("hash", 5, {}), "made with another pool, --seed or other"),
]


@pytest.mark.parametrize(("content", "settings", "message"), REFUSED)
def test_another_input_or_other_settings_are_refused(
    content: bytes, settings: Settings, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        done(b"".join(outputs()), content, settings)


@pytest.mark.parametrize(
    "output", [b"notes", b"notes\n", b'{"prompt": "a"}\n', b"\n", outputs()[0][:-2] + b"\n"]
)
def test_files_of_something_else_are_refused_also_without_a_lines_end(output: bytes) -> None:
    with pytest.raises(RequestError, match="line 1 of the output: no row of a batch"):
        done(output)


def test_half_a_row_of_another_input_is_refused_too() -> None:
    half = outputs(INPUT.replace(b'"a"', b'"A"'))[0][:60]
    with pytest.raises(RequestError, match="made of another input"):
        done(half)


def test_rows_may_be_added_to_the_input_of_a_run_that_is_done() -> None:
    found = done(b"".join(outputs()), INPUT + b'{"prompt": "more"}\n')
    assert found.num_rows == 5
