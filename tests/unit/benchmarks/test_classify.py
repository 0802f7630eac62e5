"""How a partition is judged."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import classify
from benchmarks.classify import judge_split, judged, tables, taught
from benchmarks.task_clusters import Clusters
from specrouter_dist.tasks.classifier import TaskClassifier
from specrouter_dist.text.tokenizer import Tokenizer
from tests.task_prompts import TARGET, mixed, partition, prompts

LABELS = ["code", "code", "code", "maths", "maths"]
TASKS = ["def", "def", "answer", "answer", ""]


def test_labels_are_held_against_tasks_and_none_counts_as_one() -> None:
    found = judged(LABELS, TASKS)
    assert (found["num_prompts"], found["num_tasks"], found["none"]) == (5, 2, 0.2)
    assert found["purity"] == 4 / 5
    assert found["confusion"] == {
        "code": {"answer": 1, "def": 2, "none": 0},
        "maths": {"answer": 1, "def": 0, "none": 1},
    }
    assert judged(LABELS, LABELS)["nmi"] == pytest.approx(1.0)


def test_a_prompt_of_no_task_is_not_given_to_its_cluster() -> None:
    found = taught(["def", "def", "def", "answer", "answer"], TASKS)
    assert (found["accuracy"], found["accuracy_of_told"]) == (3 / 5, 3 / 4)
    assert found["confusion"] == {
        "answer": {"answer": 1, "def": 0, "none": 1},
        "def": {"answer": 1, "def": 2, "none": 0},
    }
    assert taught(["def"], [""])["accuracy_of_told"] is None


def test_a_split_is_judged_by_labels_and_by_clusters_where_they_are_known() -> None:
    classifier = TaskClassifier(partition().model)
    own = prompts(Tokenizer.load(TARGET), mixed(3))
    told = [classifier.task(prompt.tokens) for prompt in own]
    centres = np.eye(3, dtype=np.float32)
    places = [classifier.names.index(task) for task in told]
    clusters = Clusters(classifier.names, centres, lambda _: centres[places])
    labels = ["maths", "code", "translate"] * 3
    without = judge_split(classifier, labels, own, None)
    assert without["purity"] == 1.0 and "clusters" not in without
    found = judge_split(classifier, labels, own, clusters)
    assert found == {**without, "clusters": taught(told, told)}
    assert found["clusters"]["accuracy"] == 1.0


def test_people_read_tables() -> None:
    times = {"p50": 12.34, "p99": 56.0, "max": 60.0}
    judgement = {**judged(LABELS, TASKS), "clusters": taught(["def"] * 5, TASKS)}
    results = {
        "num_tasks": 2,
        "tasks": ["def", "answer"],
        "latency": [{"num_tokens": 2000, "wall_us": times, "cpu_us": times}],
        "judged": {"dev": judgement},
    }
    lines = list(tables(results))
    assert lines[0] == "2 tasks: def, answer"
    assert lines[3].split() == ["2000", "12", "56", "12", "56"]
    assert "dev: 5 prompts, purity 0.800, NMI 0.458, of none 20.0%" in lines
    assert "dev: given to their cluster 40.0%, of those that have a task 50.0%" in lines
    assert lines[-2].split() == ["cluster", "|", "told", "answer", "def", "none"]
    assert lines[-1].split() == ["def", "2", "2", "1"]
    assert len(lines[-2]) == len(lines[-1])


def test_a_log_that_the_partition_was_not_made_of_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"prompt": "How many are {i}"}}\n' for i in range(100)))
    partition_file = str(TARGET.parents[1] / "tiny-tasks" / "tasks.safetensors")
    monkeypatch.setattr(sys, "argv", ["classify", partition_file, "--log", str(log)])
    with pytest.raises(SystemExit, match="another log"):
        classify.main()
