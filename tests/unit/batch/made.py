"""Inputs, and what runs write for them."""

import io

from specrouter_dist.batch.keys import Settings, key_of
from specrouter_dist.batch.lines import read_lines
from specrouter_dist.batch.output import answered, failed
from specrouter_dist.batch.rows import parse_row

SETTINGS = Settings("hash", 5, {"max_tokens": 4})
INPUT = b"""\
{"prompt": "a", "id": 1}

{"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "b"}}
wrong
{"prompt": "\xc3\xa9", "error": "carried", "request_id": "carried"}
{"prompt": "d", "stream": true}
"""


def outputs(content: bytes = INPUT, settings: Settings = SETTINGS) -> list[bytes]:
    """What a run writes, without one."""
    written = []
    for line in read_lines(io.BytesIO(content)):
        row = parse_row(line, seed=settings.seed, defaults=settings.defaults)
        key = key_of(line, settings.digest())
        if row.problem is None:
            seed = (row.body or {})["seed"]
            answer = {"seed": seed, "text": "a\nb é"}
            if row.carried is None:
                answer["id"] = "cmpl-x"
            written.append(answered(row, key, answer))
        else:
            error = {"message": str(row.problem)}
            written.append(failed(row, key, line_number=line.number, status_code=400, error=error))
    return written
