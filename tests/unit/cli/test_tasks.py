"""``specrouter tasks``: logs as they come, their bad rows, and what is written."""

import gzip
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from specrouter_dist.align import task_drafters
from specrouter_dist.align.agreement import Agreement
from specrouter_dist.align.data import Example
from specrouter_dist.align.task_drafters import POOLED
from specrouter_dist.cli import main as cli
from specrouter_dist.cli.prompt_log import read_prompt_log
from specrouter_dist.errors import InputError
from specrouter_dist.pools.checks import check_pool, read_vocabulary
from specrouter_dist.pools.loading import load_pool, lora_members, resolve_directories
from specrouter_dist.serving.tasks import open_classifier
from specrouter_dist.tasks.model import read_model, vocabulary_hash, write_model
from specrouter_dist.text.tokenizer import Tokenizer
from tests.task_prompts import TARGET, mixed, partition


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(TARGET)


def write_log(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(list(arguments))
    return int(exited.value.code or 0)


def test_fit_reports_and_writes_what_a_pool_can_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [{"prompt": text} for text in mixed(40)]
    log, out = write_log(tmp_path / "log.jsonl.gz", rows * 2), tmp_path / "tasks.safetensors"
    arguments = ("tasks", "fit", str(log), "--out", str(out), "--max-tasks", "3", "--json")
    assert exit_code(*arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["num_rows"], summary["num_prompts"], summary["num_tasks"]) == (240, 120, 3)
    header = read_model(out, vocabulary_hash(read_vocabulary(TARGET))).header
    assert [task.name for task in header.tasks] == [task["name"] for task in summary["tasks"]]
    assert exit_code(*arguments[:-1]) == 0
    assert "3 tasks: the most with which" in capsys.readouterr().out


def test_rows_are_kept_by_content_not_by_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"Prompt {i}"} for i in range(50)]
    one = read_prompt_log(write_log(tmp_path / "a.jsonl", rows), tokenizer, most=20, seed=1)
    other = read_prompt_log(
        write_log(tmp_path / "b.jsonl", rows[::-1] + rows), tokenizer, most=20, seed=1
    )
    assert [p.text for p in one.prompts] == [p.text for p in other.prompts]
    assert len({p.text for p in one.prompts}) == 20
    assert (one.num_rows, other.num_rows) == (50, 100)
    third = read_prompt_log(tmp_path / "a.jsonl", tokenizer, most=20, seed=2)
    assert {p.text for p in third.prompts} != {p.text for p in one.prompts}


def test_a_long_prompt_keeps_its_end_and_a_conversation_its_turns(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    turns = [{"role": "user", "content": "x" * 20_000}, {"role": "user", "content": "the end"}]
    rows: list[dict[str, object]] = [
        {"prompt": "word " * 100_000 + "the end"},
        {"messages": turns},
    ]
    log = read_prompt_log(write_log(tmp_path / "a.jsonl", rows), tokenizer, most=9, seed=0)
    assert all(len(p.text) < 17_000 and p.text.endswith("the end") for p in log.prompts)
    marks = [sum(token in tokenizer.special_ids for token in p.tokens) for p in log.prompts]
    assert sorted(marks) == [0, 3]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}, {"prompt": ""}], "line 2: prompt: a text that is not empty"),
        ([{"text": "a"}], "line 1: exactly one of 'prompt', 'turns', 'messages'"),
        ([], "holds no rows"),
    ],
)
def test_bad_logs_are_refused_by_line(
    tmp_path: Path, tokenizer: Tokenizer, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_prompt_log(write_log(tmp_path / "a.jsonl", rows), tokenizer, most=9, seed=0)


def test_a_truncated_gzip_and_no_file_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    log = write_log(tmp_path / "a.jsonl.gz", [{"prompt": text} for text in mixed(20)])
    log.write_bytes(log.read_bytes()[:-20])
    for path in (log, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="cannot read"):
            read_prompt_log(path, tokenizer, most=9, seed=0)


NAMES = ("task-2", "привет", "def-self")
"""Of tasks whose drafters cannot be called so."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "LOG", "--out", "OUT", "--max-tasks", "0"), "max_tasks: .*got 0"),
        (("fit", "LOG", "--out", "none/tasks"), "--out: no directory"),
        (("fit", "LOG", "--out", "OUT"), "1 distinct ones; at least 50"),
        (("align", "LOG", "--tasks", "none", "--out", "OUT"), "tasks: no file"),
        (("align", "LOG", "--tasks", "TORN", "--out", "OUT"), "TORN.* cannot be read"),
        (("align", "LOG", "--tasks", "OTHER", "--out", "OUT"), "made with another tokenizer"),
        (("align", "LOG", "--tasks", "TASKS", "--out", "OUT", "--base", "smal"), "'small'"),
        (
            ("align", "LOG", "--tasks", "TASKS", "--out", "OUT", "--pool", "synthetic-mini"),
            "--pool: 'synthetic-mini' has no drafter with weights of its own",
        ),
        (("align", "LOG", "--tasks", "TASKS", "--out", "OUT", "--task", "x"), "no task 'x'"),
        (("align", "LOG", "--tasks", "TASKS", "--out", "OUT"), "0 of task .* 128 are needed"),
        (
            (
                *("align", "LOG", "--tasks", "NAMED", "--out", "OUT"),
                *("--pool", "tiny-tasks", "--task", "def-self"),
            ),
            "--task: the drafter of task 'def-self' would be called 'small-def-self', as one of "
            "pool 'tiny-tasks' is",
        ),
        (
            ("align", "LOG", "--tasks", "NAMED", "--out", "OUT"),
            "task 'привет' would be called 'small-task-2', as the one of task 'task-2' is",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    write_log(tmp_path / "LOG", [{"prompt": "Ποιο είναι το νόημα;"}])
    model = partition().model
    other = model.header.model_copy(update={"vocabulary_hash": "0" * 64})
    write_model(model, tmp_path / "TASKS")
    write_model(replace(model, header=other), tmp_path / "OTHER")
    (tmp_path / "TORN").write_bytes((tmp_path / "TASKS").read_bytes()[:5000])
    called = zip(model.header.tasks, NAMES, strict=True)
    tasks = tuple(task.model_copy(update={"name": name}) for task, name in called)
    header = model.header.model_copy(update={"tasks": tasks})
    write_model(replace(model, header=header), tmp_path / "NAMED")
    names = ("LOG", "OUT", "TASKS", "OTHER", "TORN", "NAMED")
    named = {name: str(tmp_path / name) for name in names}
    assert exit_code("tasks", *(named.get(argument, argument) for argument in arguments)) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error


SHORT = {
    "shards": 1,
    "prompts_per_shard": 8,
    "max_new_tokens": 4,
    "held_out_prompts": 4,
    "distillation": {"optimizer": {"steps": 2, "checkpoint_every": 1}},
}
"""An alignment that is over at once."""


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is trained is better than what was before: whether it is, other tests tell."""
    scores = count()

    def rising(texts: Sequence[Example], picks: Sequence[object]) -> Agreement:
        return Agreement({text.task: float(next(scores)) for text in texts}, len(texts))

    monkeypatch.setattr(task_drafters, "agreement", rising)


@pytest.mark.usefixtures("better")
@pytest.mark.parametrize("is_pooled", [False, True])
def test_align_writes_a_pool_with_the_new_drafter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_pooled: bool
) -> None:
    """On the embedded pool, for too few steps to be of use."""
    log = write_log(tmp_path / "log.jsonl", [{"prompt": text} for text in mixed(40)])
    write_model(partition().model, tmp_path / "tasks")
    task, other = (task.name for task in partition().model.header.tasks[:2])
    name = POOLED if is_pooled else task
    (tmp_path / "settings.json").write_text(json.dumps(SHORT))
    out = tmp_path / "out"
    arguments = ["tasks", "align", str(log), "--tasks", str(tmp_path / "tasks"), "--out", str(out)]
    arguments += ["--config", str(tmp_path / "settings.json"), "--task", task]
    if is_pooled:
        arguments += ["--task", other, "--pooled"]
    assert exit_code(*arguments, "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)["tasks"]
    assert report["steps"] == 2 and report["num_reported"] == (8 if is_pooled else 4)
    assert {one["task"] for one in report["agreement"]} == ({task, other} if is_pooled else {task})
    pool = load_pool(str(out / "pool.yaml"))
    names = [member.name for member in pool.config.members]
    assert names == ["lookup", "small", "medium", "target", f"small-{name}"]
    assert open_classifier(pool) is not None
    check_pool(resolve_directories(pool))
    # What is there was learned from something else.
    log.write_text(log.read_text() * 2)
    (tmp_path / "settings.json").write_text(json.dumps({**SHORT, "max_prompts": 60}))
    assert exit_code(*arguments) == 2
    said = "was begun with other prompts and settings of samples; name another"
    assert said in capsys.readouterr().err


def aligning(folder: Path) -> list[str]:
    """``tasks align`` of a log and a partition that lie in ``folder`` then."""
    log = write_log(folder / "log.jsonl", [{"prompt": text} for text in mixed(40)])
    write_model(partition().model, folder / "tasks")
    return ["tasks", "align", str(log), "--tasks", str(folder / "tasks"), "--json"]


def test_align_adds_a_task_to_drafters_of_one_each_not_to_a_drafter_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*aligning(tmp_path), "--config", str(tmp_path / "settings.json")]
    (tmp_path / "settings.json").write_text(json.dumps(SHORT))
    first, second = (["--task", task.name] for task in partition().model.header.tasks[:2])
    each, of_all = ["--out", str(tmp_path / "each")], ["--out", str(tmp_path / "all"), "--pooled"]
    assert exit_code(*arguments, *each, *first) == 0
    assert exit_code(*arguments, *each, *second) == 0
    assert exit_code(*arguments, *of_all, *first, *second) == 0
    assert exit_code(*arguments, *of_all, *second, *first) == 0
    capsys.readouterr()
    assert exit_code(*arguments, *of_all) == 2
    said = "was begun with other tasks of the one drafter; name another"
    assert said in capsys.readouterr().err


def test_align_learns_from_no_more_prompts_than_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*aligning(tmp_path), "--task", partition().model.header.tasks[0].name]
    num_prompts = []
    for most in (20_000, 60):
        settings = tmp_path / f"{most}.json"
        settings.write_text(json.dumps({**SHORT, "max_prompts": most}))
        out = str(tmp_path / str(most))
        assert exit_code(*arguments, "--config", str(settings), "--out", out) == 0
        (report,) = json.loads(capsys.readouterr().out)["tasks"]
        num_prompts.append(report["num_prompts"])
    assert 0 < num_prompts[1] < num_prompts[0]


@pytest.mark.usefixtures("better")
def test_align_writes_a_pool_with_the_tasks_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"prompt": text} for text in mixed(40)])
    write_model(partition().model, tmp_path / "tasks")
    name = partition().model.header.tasks[0].name
    settings = {**SHORT, "form": "lora", "lora": {"rank": 4}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    out = tmp_path / "out"
    arguments = ["tasks", "align", str(log), "--tasks", str(tmp_path / "tasks"), "--out", str(out)]
    arguments += ["--config", str(tmp_path / "settings.json"), "--task", name]
    assert exit_code(*arguments, "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)["tasks"]
    assert report["directory"] == str(out / f"{name}-lora")
    pool = load_pool(str(out / "pool.yaml"))
    (member,) = lora_members(pool)
    assert (member.name, member.of) == (f"small-{name}", "small")
    assert Path(member.adapter) == out / f"{name}-lora"
    assert exit_code("pool", "check", str(out / "pool.yaml")) == 0
    assert (
        f"small-{name}: 17,280 parameters, 0.1 MiB weights, 0.0 MiB KV" in capsys.readouterr().out
    )


@pytest.mark.usefixtures("better")
def test_align_writes_a_pool_whose_drafter_shares_the_bases_embedding(
    tmp_path: Path, tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"prompt": text} for text in mixed(40)])
    out = tmp_path / "out"
    out.mkdir()
    # As from a run before: what is there is not copied onto itself.
    write_model(partition().model, out / "tasks.safetensors")
    name = partition().model.header.tasks[0].name
    (tmp_path / "settings.json").write_text(json.dumps({**SHORT, "form": "layers"}))
    arguments = ["tasks", "align", str(log), "--tasks", str(out / "tasks.safetensors")]
    arguments += ["--out", str(out), "--config", str(tmp_path / "settings.json"), "--task", name]
    assert exit_code(*arguments, "--pool", str(tiny_copy), "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)["tasks"]
    assert report["directory"] == str(out / f"{name}-layers")
    pool = resolve_directories(load_pool(str(out / "pool.yaml")))
    found = check_pool(pool)
    own, shared = found.member(f"small-{name}"), found.member("small")
    assert own == replace(shared, name=own.name)
    # Without small among its members, the pool is another one when the shared file changes.
    alone = pool.config.model_dump(mode="json", exclude_unset=True)
    alone["members"] = [one for one in alone["members"] if one["name"] != "small"]
    (out / "alone.yaml").write_text(json.dumps(alone))
    before = load_pool(str(out / "alone.yaml")).config_hash
    os.utime(tmp_path / "tiny" / "small" / "model.safetensors", ns=(1, 1))
    assert load_pool(str(out / "alone.yaml")).config_hash != before
