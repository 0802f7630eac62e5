"""JSON lines, and switching them on."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from specrouter_dist.config import LogFormat
from specrouter_dist.observability.logs import ROOT, JsonFormatter, configure_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    logger = logging.getLogger(ROOT)
    before = (logger.handlers, logger.level, logger.propagate)
    yield
    logger.handlers, level, logger.propagate = before
    logger.setLevel(level)


def test_a_line_holds_the_record_and_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogFormat.JSON, "small")
    configure_logs(LogFormat.JSON, "small")
    logging.getLogger(f"{ROOT}.worker.requests").info(
        "request %d", 3, extra={"request_id": "me\n1", "chain": None}
    )
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said.pop("time").endswith("+00:00")
    assert said == {
        "level": "INFO",
        "logger": "specrouter_dist.worker.requests",
        "process": "small",
        "message": "request 3",
        "request_id": "me\n1",
        "chain": None,
    }


def test_an_exception_is_on_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.makeLogRecord({"msg": "it failed", "exc_info": sys.exc_info()})
    (line,) = JsonFormatter("small").format(record).splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]


def test_text_is_as_python_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogFormat.TEXT, "small")
    logger = logging.getLogger(ROOT)
    assert logger.handlers == [] and not logger.isEnabledFor(logging.INFO)
