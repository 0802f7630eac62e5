"""What workers and their driver say to each other, and what the driver says when one fails."""

import json
import sys
from collections.abc import Iterator

import pytest

from benchmarks.peers.lines import Answer, LineError, Ready, Request, to_line
from benchmarks.peers.worker import Worker, WorkerError

ANSWER = {"token_ids": [3, 4], "time_to_first_token_ms": 2.0, "total_ms": 5.0}
REQUEST = Request([1, 2], 8, 0.0, 7)

READY = 'print(\'{"versions": {"peer": "1"}}\', flush=True)\n'
WORKED_S = 0.05
"""The kernel tells processor times in hundredths of a second."""
WORKS = f"import time\nwhile time.process_time() < {WORKED_S}: pass\n"
ANSWERS = f"import sys\nfor _ in sys.stdin: print({json.dumps(ANSWER)!r}, flush=True)\n"


def worker(program: str, **limits: float) -> Worker:
    return Worker("peer alone", [sys.executable, "-c", program], {}, **limits)


@pytest.fixture
def answering() -> Iterator[Worker]:
    with worker(WORKS + READY + ANSWERS) as made:
        yield made


@pytest.mark.parametrize("said", [Ready({"torch": "2"}), REQUEST, Answer([3], 1.0, 1.0, 4, 2)])
def test_a_line_says_what_was_written(said: Ready | Request | Answer) -> None:
    line = to_line(said)
    assert line.endswith("\n") and line.count("\n") == 1
    assert type(said).parse(line) == said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": []}, "no list of token ids"),
        ({"token_ids": [1, "2"]}, "no list of token ids"),
        ({"token_ids": 5}, "no list of token ids"),
        ({"total_ms": 1.0}, "times that cannot be"),
        ({"time_to_first_token_ms": 0.0}, "times that cannot be"),
        ({"total_ms": "5"}, "times that are no numbers"),
        ({"more": 1}, "is no Answer"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LineError, match=message):
        Answer.parse(json.dumps(ANSWER | changes))


@pytest.mark.parametrize("line", ["", "Loading weights: 100%", "[]", "null", "{}", '{"a": 1}'])
def test_a_line_of_something_else_is_refused(line: str) -> None:
    for kind in (Ready, Request, Answer):
        with pytest.raises(LineError, match=f"is no {kind.__name__}"):
            kind.parse(line)


def test_a_worker_answers(answering: Worker) -> None:
    assert answering.versions == {"peer": "1"}
    assert answering.ask(REQUEST) == answering.ask(REQUEST) == Answer([3, 4], 2.0, 5.0)
    assert answering.rss_bytes() > 2**20
    assert answering.cpu_s() >= WORKED_S - 0.02


def test_a_worker_that_does_not_exist_is_named() -> None:
    with pytest.raises(WorkerError, match=r"^peer alone: .*/no/such/python"):
        Worker("peer alone", ["/no/such/python"], {})


def test_a_worker_that_does_not_load_says_its_last_words() -> None:
    with pytest.raises(WorkerError, match=r"(?s)^peer alone: ended with code 1.*ValueError: no"):
        worker("raise ValueError('no such setting')")


def test_a_worker_that_dies_while_asked_says_its_last_words() -> None:
    program = READY + "input()\nraise SystemExit('out of memory')"
    with (
        worker(program) as dying,
        pytest.raises(WorkerError, match=r"(?s)ended with code 1.*out of memory"),
    ):
        dying.ask(REQUEST)


def test_a_worker_that_has_died_is_not_asked() -> None:
    with worker(READY) as dead:
        dead._process.wait()
        with pytest.raises(WorkerError, match="ended with code 0"):
            dead.ask(REQUEST)


def test_a_worker_that_talks_rubbish_is_named() -> None:
    with (
        worker(READY + "input()\nprint('Loading weights')") as rubbish,
        pytest.raises(WorkerError, match=r"^peer alone: 'Loading weights.*' is no Answer"),
    ):
        rubbish.ask(REQUEST)


def test_a_worker_that_does_not_answer_is_ended() -> None:
    with (
        worker(READY + "input()\ninput()", answer_s=0.2) as silent,
        pytest.raises(WorkerError, match="ended with code -9"),
    ):
        silent.ask(REQUEST)
