"""What every member of a pool would have drawn along texts that its target wrote."""

from collections.abc import Sequence

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.factory import load_engine
from specrouter_dist.links.control import Settled
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.loading import Pool, model_members
from specrouter_dist.routing.observations import Observations
from specrouter_dist.serving.results import GenerateResult
from specrouter_dist.simulation.recorded import Recording
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.worker.member import ModelHost
from specrouter_dist.worker.reading import Readers


def record(
    pool: Pool,
    report: PoolReport,
    prompts: Sequence[TokenArray],
    results: Sequence[GenerateResult],
    sampling: SamplingParams,
) -> list[Recording]:
    """One recording per text; the picks are made by the readers that workers have, all at once.

    Args:
        results: what the target made of ``prompts``, with ``sampling`` and seeds of their own.
    """
    by_member: list[list[TokenArray]] = []
    *drafters, _ = model_members(pool)
    for member in drafters:
        directory = pool.directories[member.name]
        engine = load_engine(member, directory, num_ids=report.num_ids, exact=pool.config.exact)
        # In time that stands still, reading costs none.
        readers = Readers([ModelHost(member.name, engine, is_target=False)], lambda: 0.0)
        observations = Observations()
        for request, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
            drawn = sampling.model_copy(update={"seed": result.seed})
            text = prompt + result.token_ids
            readers.add(Settled(request, len(prompt), text, drawn, ""))
            while readers.advance(observations):
                pass
        by_member.append([reading.picks for reading in observations.readings])
    by_member.append([result.token_ids for result in results])
    return [
        Recording(prompt, picks)
        for prompt, picks in zip(prompts, zip(*by_member, strict=True), strict=True)
    ]
