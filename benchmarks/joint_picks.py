"""What every member of a pool would have drawn along texts that its target wrote."""

from array import array
from collections.abc import Sequence

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, model_members
from specrouter_dist.serving.results import GenerateResult
from specrouter_dist.simulation.recorded import Recording
from specrouter_dist.speculation.forks import Draw
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.worker.forks import draws_of

_CHUNK_TOKENS = 64
"""Fed at once, as by the readers that workers have."""


def record(
    pool: Pool,
    report: PoolReport,
    prompts: Sequence[TokenArray],
    results: Sequence[GenerateResult],
    sampling: SamplingParams,
) -> list[Recording]:
    """One recording per text, with all drafters' runner-ups.

    Args:
        results: what the target made of ``prompts``, with ``sampling`` and seeds of their own.
    """
    by_drafter: list[list[list[Draw]]] = []
    *drafters, _ = model_members(pool)
    for member in drafters:
        directory = pool.directories[member.name]
        engine = load_engine(member, directory, num_ids=report.num_ids, exact=pool.config.exact)
        by_drafter.append(
            [
                read(
                    engine,
                    prompt + result.token_ids,
                    len(prompt),
                    sampling.model_copy(update={"seed": result.seed}),
                )
                for prompt, result in zip(prompts, results, strict=True)
            ]
        )
    return [
        Recording(
            prompt,
            (*(_tokens(draws[i]) for draws in by_drafter), result.token_ids),
            {drafter: draws[i] for drafter, draws in enumerate(by_drafter)},
        )
        for i, (prompt, result) in enumerate(zip(prompts, results, strict=True))
    ]


def read(
    engine: Engine, text: TokenArray, prompt_tokens: int, sampling: SamplingParams
) -> list[Draw]:
    """What the member would have drawn at every position of ``text`` behind the prompt."""
    slot = engine.open(sampling, prompt_tokens, len(text))
    draws: list[Draw] = []
    for start in range(0, len(text) - 1, _CHUNK_TOKENS):
        end = min(start + _CHUNK_TOKENS, len(text) - 1)
        num_picks = min(end - start, max(0, end - prompt_tokens + 1))
        extension = Extension(slot, start, text[start:end], num_picks, num_runner_ups=1)
        (picks,) = engine.extend([extension])
        draws += draws_of(picks, 0, num_picks)
    engine.close(slot)
    return draws


def _tokens(draws: Sequence[Draw]) -> TokenArray:
    return array(TOKEN_TYPECODE, (draw.token for draw in draws))
