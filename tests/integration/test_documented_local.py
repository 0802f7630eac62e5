"""The documented commands that need no Ray, as they are written, in this process."""

import shlex
from pathlib import Path

import pytest

from specrouter_dist.cli import main as cli
from tests.documented.lists import LOCAL
from tests.documented.places import make_place, write_prompts
from tests.pools import short_start
from tests.task_prompts import mixed

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize(("command", "says"), LOCAL.items(), ids=LOCAL)
def test_documented_commands_without_ray(
    place: Path,
    command: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    program, *arguments = shlex.split(command)
    assert program == "specrouter"
    if arguments[:2] == ["tasks", "fit"]:
        write_prompts(place, mixed(40))
    with short_start(), pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert exited.value.code == 0, err
    assert says in out
