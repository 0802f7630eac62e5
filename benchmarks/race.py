"""Arms over the same prompts, interleaved, one request at a time; their texts must be the same."""

from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from specrouter_dist.serving.backend import PoolBackend
from specrouter_dist.serving.results import GenerateRequest, GenerateResult
from specrouter_dist.speculation.messages import TokenArray

Arm = Sequence[GenerateRequest]
"""The i-th request of every arm has the same prompt, sampling and seed."""


class Race:
    """Runs arms and counts the texts that differ from the first of their prompt."""

    def __init__(self, backend: PoolBackend) -> None:
        self._backend = backend
        self._texts: dict[int, TokenArray] = {}
        self.num_differing = 0

    def run(self, arm: Iterable[GenerateRequest]) -> list[GenerateResult]:
        """One request after the other."""
        return [self._run_one(number, request) for number, request in enumerate(arm)]

    def passes(self, arms: Sequence[Arm], count: int) -> list[list[list[GenerateResult]]]:
        """The results of every arm in every pass.

        Arms take turns at each prompt, in an order that is drawn: what an arm leaves behind (texts
        to read, sessions that are parked) meets all others, and what the machine does for seconds.
        """
        results: list[list[list[GenerateResult]]] = [[[] for _ in range(count)] for _ in arms]
        rng = np.random.default_rng(len(arms))
        for turn in tqdm(range(count), desc="passes", leave=False):
            for number, requests in enumerate(tqdm(list(zip(*arms, strict=True)), leave=False)):
                for at in rng.permutation(len(arms)).tolist():
                    results[at][turn].append(self._run_one(number, requests[at]))
        return results

    def _run_one(self, number: int, request: GenerateRequest) -> GenerateResult:
        (result,) = self._backend.generate([request], concurrency=1)
        first = self._texts.setdefault(number, result.token_ids)
        self.num_differing += first != result.token_ids
        return result


def tokens_per_second(results: Sequence[GenerateResult]) -> float:
    """Over all of them, prefill included."""
    total_ms = sum(
        result.metrics.time_to_first_token_ms + result.metrics.generation_time_ms
        for result in results
    )
    return sum(len(result.token_ids) for result in results) / total_ms * 1e3
