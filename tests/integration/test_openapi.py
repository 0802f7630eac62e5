"""The service against its own OpenAPI document: whatever is sent, no answer that is not in it."""

import subprocess
from pathlib import Path
from sys import executable

import pytest

from specrouter_dist.serving.api_keys import load_keys
from specrouter_dist.serving.settings import ServiceSettings
from specrouter_dist.worker.local import LocalPool
from tests.http_server import serving

pytestmark = pytest.mark.timeout(300)

SECRET = "sk-5b1c4f0e93a84d52"


def test_schemathesis_finds_nothing(local_pool: LocalPool, tmp_path: Path) -> None:
    """As docs/serving.md has it. Requests end soon, whatever they ask for."""
    pytest.importorskip("schemathesis")
    settings = ServiceSettings(timeout_s=0.05, max_timeout_s=0.05)
    keys = load_keys(settings, {"SPECROUTER_API_KEYS": SECRET})
    with serving(local_pool, settings, keys) as server:
        command = [
            *(str(Path(executable).with_name("schemathesis")), "run"),
            f"{server.url}/openapi.json",
            *("--header", f"Authorization: Bearer {SECRET}"),
            # Conditions between fields are in no schema.
            *("--exclude-checks", "positive_data_acceptance"),
            *("--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1", "--no-color"),
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
        assert "Tested: 8" in ran.stdout
        server.wait_until_free()
