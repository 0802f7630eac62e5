"""Every command of README.md and docs/ is run by a test, or listed with its reason and parsed."""

from collections import Counter
from contextlib import suppress

import pytest
import yaml

from specrouter_dist.align.config import AlignmentConfig
from specrouter_dist.config import PoolConfig
from specrouter_dist.serving.settings import ServiceSettings
from tests.documented.examples import Example, all_blocks, blocks, commands, mentions
from tests.documented.lists import NOT_RUN, RUN
from tests.documented.parsers import Incomplete, check_command

# Ray Serve itself uses pydantic as it was; so it is only imported where that is let pass.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")

LANGUAGES = ("", "json", "python", "text", "yaml")
"""Of blocks: none is a shell's. Python is run in tests/integration, JSON are rows of a batch."""
LISTED = Counter([*RUN, *NOT_RUN])
MENTIONS = {mention.text: mention for mention in mentions()}


def test_every_documented_command_is_in_one_list() -> None:
    unknown = [f"{one.place}: {one.text}" for one in commands() if not LISTED[one.text]]
    assert not unknown, "no test runs these; see tests/documented/lists.py"
    assert [text for text, count in LISTED.items() if count > 1] == []
    assert set(LISTED) == {one.text for one in commands()}, "no longer documented"


def test_every_block_says_what_it_is() -> None:
    unknown = [block.place for block in all_blocks() if block.language not in LANGUAGES]
    assert not unknown, f"languages are {LANGUAGES}"


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_yaml_is_what_pool_files_and_settings_take(block: Example) -> None:
    content = yaml.safe_load(block.text)
    if isinstance(content, list):
        target = {"name": "target", "kind": "model", "role": "target", "model": "any"}
        content = {"members": [*content, target]}
    if "members" in content:
        PoolConfig.model_validate({"name": "any", **content})
    elif "distillation" in content:
        AlignmentConfig.model_validate(content)
    else:
        ServiceSettings.model_validate(content)


@pytest.mark.parametrize("command", NOT_RUN)
def test_what_is_not_run_has_arguments_that_its_program_takes(command: str) -> None:
    check_command(command)


@pytest.mark.parametrize("mention", MENTIONS.values(), ids=MENTIONS)
def test_commands_in_the_text_exist(mention: Example) -> None:
    with suppress(Incomplete):
        check_command(mention.text)
