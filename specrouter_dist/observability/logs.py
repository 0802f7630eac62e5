"""The log of a process: text as Python has it, or one JSON object a line.

Records carry their facts as ``extra``; texts of prompts and outputs are never among them.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from specrouter_dist.config import LogFormat

ROOT = "specrouter_dist"
"""The logger above all of ours."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, process, message, and what else the record says.

    Args:
        process: which one this is, such as ``ingress`` or a member's name.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logs(log_format: LogFormat, process: str) -> None:
    """Sets up this process: JSON from INFO on to stderr, or nothing but Python's own ways.

    Ray keeps the stderr of its processes in its session's ``logs`` folder.
    """
    if log_format is LogFormat.TEXT:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
