"""vLLM as a worker: one setting, one request at a time.

    python -m benchmarks.peers.vllm_worker --target DIR \
        --speculative '{"method": "draft_model", "model": "DIR", "num_speculative_tokens": 3}'

Runs in vLLM's own virtual environment (setup.sh). The environment variables that it wants set
before it is imported are the driver's matter (settings.py).
"""

import argparse
import json
import time
from itertools import count
from typing import Any

import torch
import vllm
from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind

from benchmarks.peers.lines import Answer, Request, claim_stdout, serve
from benchmarks.peers.settings import CONTEXT_TOKENS

_COUNTERS = ("vllm:spec_decode_num_draft_tokens", "vllm:spec_decode_num_accepted_tokens")


class Generator:
    """One engine. Its steps are made here as ``LLM.generate`` makes them, for the first's time."""

    def __init__(self, target: str, dtype: str, speculative: dict[str, Any] | None) -> None:
        self._llm = LLM(
            target,
            dtype=dtype,
            max_model_len=CONTEXT_TOKENS,
            max_num_seqs=1,
            enable_prefix_caching=False,
            disable_log_stats=speculative is None,
            speculative_config=speculative,
        )
        self._is_speculative = speculative is not None
        self._names = map(str, count())

    def __call__(self, request: Request) -> Answer:
        sampling = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            ignore_eos=request.ignore_eos,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        before = self._counters()
        engine = self._llm.llm_engine
        token_ids: list[int] = []
        first_s = None
        started_s = time.perf_counter()
        engine.add_request(next(self._names), {"prompt_token_ids": request.prompt_ids}, sampling)
        while engine.has_unfinished_requests():
            for output in engine.step():
                token_ids += output.outputs[0].token_ids
                first_s = first_s or time.perf_counter()
        ended_s = time.perf_counter()
        if first_s is None:
            raise RuntimeError("vLLM wrote nothing")
        drafts = [now - then for now, then in zip(self._counters(), before, strict=True)]
        return Answer(token_ids, 1e3 * (first_s - started_s), 1e3 * (ended_s - started_s), *drafts)

    def _counters(self) -> list[int]:
        """Drafted and accepted tokens since the start; none where it does not speculate."""
        if not self._is_speculative:
            return []
        values = {metric.name: metric for metric in self._llm.get_metrics()}
        return [values[name].value if name in values else 0 for name in _COUNTERS]


def main() -> None:
    """Loads, then serves."""
    answers = claim_stdout()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, help="the model's directory")
    parser.add_argument("--dtype", default="auto", help="to compute in; auto: the weights' own")
    parser.add_argument("--speculative", type=json.loads, help="vLLM's speculative_config")
    arguments = parser.parse_args()
    versions = {"vllm": vllm.__version__, "torch": torch.__version__}
    serve(answers, versions, Generator(arguments.target, arguments.dtype, arguments.speculative))


if __name__ == "__main__":
    main()
