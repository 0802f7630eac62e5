"""Requests get their tasks at admission; a partition that cannot be used stops no service."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool
from specrouter_dist.serving.http import build_http
from specrouter_dist.serving.openai_service import OpenAIService
from specrouter_dist.serving.tasks import Tasks, open_classifier
from specrouter_dist.tasks.model import TaskModel, write_model
from specrouter_dist.text.tokenizer import Tokenizer
from tests.task_prompts import partition, texts
from tests.unit.serving.asgi import call
from tests.unit.serving.calls import chat, complete
from tests.unit.serving.conftest import ScriptedRouter
from tests.unit.serving.scripted import ScriptedClient

CODE, MATHS = (texts(60)[kind][55] for kind in ("code", "maths"))
UNKNOWN = "Ποιο είναι το νόημα της ζωής;"


def with_tasks(pool: Pool, file: Path) -> Pool:
    """The pool, with ``file`` for its partition."""
    return replace(pool, config=pool.config.model_copy(update={"tasks": str(file)}))


def other_tokenizers(model: TaskModel) -> TaskModel:
    return replace(model, header=model.header.model_copy(update={"vocabulary_hash": "0" * 64}))


@pytest.fixture
def told(pool: Pool, tmp_path: Path) -> Pool:
    write_model(partition().model, tmp_path / "tasks.safetensors")
    return with_tasks(pool, tmp_path / "tasks.safetensors")


def test_prompts_and_conversations_get_their_tasks(
    told: Pool,
    client: ScriptedClient,
    report: PoolReport,
    tokenizer: Tokenizer,
    router: ScriptedRouter,
) -> None:
    app = build_http(OpenAIService(client, tokenizer, report, told, router))
    answer = complete(app, prompt=[CODE, MATHS, UNKNOWN]).json()
    code, maths, unknown = (submit.task for submit in client.submits)
    assert code and maths and code != maths and not unknown
    metrics = answer["metrics"]["choices"]
    assert [one["task"] for one in metrics] == [code, maths, None]
    talk = [
        {"role": "user", "content": MATHS},
        {"role": "assistant", "content": "He buys 3. " * 30},
        {"role": "user", "content": CODE},
    ]
    assert chat(app, messages=talk).status == 200
    assert client.submits[-1].task == code
    counted = call(app, "GET", "/metrics").body.decode()
    assert 'specrouter:tasks_available{model_name="tiny"} 1.0' in counted
    assert f'specrouter:task_requests_total{{model_name="tiny",task="{code}"}} 2.0' in counted
    assert 'specrouter:task_requests_total{model_name="tiny",task="none"} 1.0' in counted


@pytest.mark.parametrize("is_corrupt", [True, False])
def test_a_partition_that_cannot_be_used_is_told_and_stops_nothing(
    told: Pool,
    client: ScriptedClient,
    report: PoolReport,
    tokenizer: Tokenizer,
    router: ScriptedRouter,
    caplog: pytest.LogCaptureFixture,
    is_corrupt: bool,
) -> None:
    file = Path(str(told.config.tasks))
    if is_corrupt:
        file.write_bytes(file.read_bytes()[:1000])
    else:
        write_model(other_tokenizers(partition().model), file)
    with caplog.at_level(logging.WARNING):
        app = build_http(OpenAIService(client, tokenizer, report, told, router))
    assert "requests are not told apart by task" in caplog.text
    assert complete(app, prompt=CODE).json()["metrics"]["task"] is None
    assert client.submits[0].task == ""
    health = call(app, "GET", "/health")
    tasks = json.loads(health.body)["tasks"]
    assert health.status == 200 and tasks["status"] == "unavailable"
    assert str(file) in tasks["problem"]
    counted = call(app, "GET", "/metrics").body.decode()
    assert 'specrouter:tasks_available{model_name="tiny"} 0.0' in counted
    with pytest.raises(ConfigError):
        open_classifier(told)


def test_a_pool_without_a_partition_names_no_tasks(pool: Pool) -> None:
    tasks = Tasks.of(pool)
    assert tasks.to_json() is None and not tasks.are_told
    assert tasks.of_prompt([1, 2, 3]) == ""
