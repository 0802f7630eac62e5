"""The documented commands of a cluster, one after the other. They end what the others use."""

import json
import urllib.error
import urllib.request

import pytest

from tests.documented.examples import blocks
from tests.documented.lists import (
    DEPLOYED,
    LIVE_PLAN,
    SERVE_KEYS,
    SERVE_RUN,
    SHUTDOWN,
    STOP_POOL,
)
from tests.integration.deployed.shell import URL, Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("command", "says"), DEPLOYED.items(), ids=DEPLOYED)
def test_commands_while_the_service_is_deployed(
    shell: Shell, capsys: Capture, command: str, says: str
) -> None:
    is_ours = command.startswith("specrouter ")
    assert says in (shell.run_here(command, capsys) if is_ours else shell.run(command))


def test_batches_have_an_answer_for_every_documented_row(shell: Shell) -> None:
    num_rows = (shell.place / "in.jsonl").read_text().count("\n")
    for output in ("out.jsonl", "data/out.jsonl"):
        rows = [json.loads(line) for line in (shell.place / output).read_text().splitlines()]
        assert [row["error"] for row in rows] == [None] * num_rows


def test_the_live_plan_is_shown_until_it_is_interrupted(shell: Shell) -> None:
    with shell.running(LIVE_PLAN, until_it_says="target"):
        pass


def test_the_service_is_shut_down(shell: Shell) -> None:
    shell.run(SHUTDOWN)


def test_the_python_examples_call_the_service_of_the_config(shell: Shell, capsys: Capture) -> None:
    with shell.running(SERVE_RUN, until_it_says="successfully"):
        shell.wait_until_healthy()
        for block in blocks("python"):
            exec(compile(block.text, block.place, "exec"), {})
            assert capsys.readouterr().out.strip(), block.place


def test_keys_and_settings_hold(shell: Shell) -> None:
    with shell.running(SERVE_KEYS, until_it_says="serving 'tiny'"):
        url = f"{URL}/v1/models"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=30)
        (key, *_) = (shell.place / "keys.txt").read_text().splitlines()[1].split()
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        urllib.request.urlopen(request, timeout=30).close()


def test_the_pool_is_stopped(shell: Shell, capsys: Capture) -> None:
    assert "stopped" in shell.run_here(STOP_POOL, capsys)
