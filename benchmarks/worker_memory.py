"""Memory of a pool's worker, in a process of its own.

    python -m benchmarks.worker_memory --pool tiny --json

All members are in one worker, profiled and calibrated, as ``--backend local`` runs them; with
``--lossy CHAIN`` it has then answered a lossy request. Bytes of all tensors that are alive then,
each storage once, and the process's largest resident set.
"""

import argparse
import gc
import json
import subprocess
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import LossyParams, SamplingParams
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

_PROMPT = array(TOKEN_TYPECODE, [*range(20, 36)] * 4)
"""The lookup has something to find."""
_LOSSY_TOKENS = 128


def measure(pool: str, lossy_chain: Sequence[str]) -> dict[str, int]:
    """In this process, which should do nothing else."""
    opened, report = open_pool(pool, dtype=None)
    with open_backend(opened, report, BackendName.LOCAL) as backend:
        if lossy_chain:
            sampling = SamplingParams(max_tokens=_LOSSY_TOKENS, seed=0)
            request = GenerateRequest(_PROMPT, sampling, tuple(lossy_chain), lossy=LossyParams())
            list(backend.generate([request], concurrency=1))
        gc.collect()
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in gc.get_objects()
            if issubclass(type(tensor), torch.Tensor) and tensor.layout is torch.strided
        }
        return {"tensor_bytes": sum(storages.values()), "peak_rss_bytes": peak_rss_bytes()}


def peak_rss_bytes() -> int:
    """Of this program; getrusage would also count what the process was before it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])


def measure_apart(pool: str, lossy_chain: Sequence[str] = ()) -> dict[str, int]:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.worker_memory", "--pool", pool, "--json"]
    if lossy_chain:
        command += ["--lossy", ",".join(lossy_chain)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    return {key: report[key] for key in ("tensor_bytes", "peak_rss_bytes")}


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--lossy", metavar="CHAIN", help="members, by comma")
    add_json_argument(parser)
    arguments = parser.parse_args()
    lossy_chain = arguments.lossy.split(",") if arguments.lossy else ()
    print_report("worker_memory", arguments, measure(arguments.pool, lossy_chain))


if __name__ == "__main__":
    main()
