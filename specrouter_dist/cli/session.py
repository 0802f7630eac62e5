"""What the commands that generate do before anything starts: check all input, make requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrouter_dist.cli.prompts import PromptRow, read_prompts
from specrouter_dist.config import Dtype, LossyParams, SamplingParams
from specrouter_dist.errors import RequestError
from specrouter_dist.pools.checks import PoolReport, check_pool
from specrouter_dist.pools.loading import Pool, load_pool, parse_chain, resolve_directories
from specrouter_dist.pools.lossy import check_lossy
from specrouter_dist.pools.synthetic import check_synthetic
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.noise import derive_seed
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.validation import validated

AUTO_CHAIN = "auto"


@dataclass(frozen=True, slots=True)
class Session:
    """A checked pool and checked prompts; nothing runs yet."""

    pool: Pool
    report: PoolReport
    sampling: SamplingParams
    rows: Sequence[PromptRow]
    prompt_ids: Sequence[TokenArray]

    def requests(self, chain: str, lossy: str | None = None) -> list[GenerateRequest]:
        """One request per prompt, each with its own seed.

        Args:
            chain: names by comma, or ``auto``.
            lossy: fields of LossyParams as ``name=value`` by comma; None: the text is the target's.

        Raises:
            InputError: no valid chain, or none that can be lossy so.
        """
        members = None if chain.strip() == AUTO_CHAIN else parse_chain(self.pool, chain)
        params = None if lossy is None else parse_lossy(lossy)
        if params is not None:
            check_lossy(self.pool.config, members, self.sampling)
        return [
            GenerateRequest(
                prompt_ids=ids,
                sampling=self.sampling.model_copy(
                    update={"seed": derive_seed(self.sampling.seed, 0, index)}
                ),
                chain=members,
                lossy=params,
            )
            for index, ids in enumerate(self.prompt_ids)
        ]


def parse_lossy(text: str) -> LossyParams:
    """The fields in ``name=value,name=value,...``.

    Raises:
        RequestError: a field that is wrong; names it.
    """
    fields: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = part.partition("=")
        if name in fields:
            raise RequestError(f"--lossy: {name}: given twice", field=name)
        fields[name] = value
    return validated(LossyParams, fields, error=RequestError, where="--lossy")


def open_pool(name: str, *, dtype: Dtype | None) -> tuple[Pool, PoolReport]:
    """A pool whose models are all here and that can run.

    Raises:
        InputError: no such pool or model, or a check fails.
    """
    pool = resolve_directories(load_pool(name, dtype=dtype))
    return pool, check_pool(pool)


def open_session(
    pool_name: str,
    *,
    dtype: Dtype | None,
    prompt: str | None,
    prompts: Path | None,
    sampling: Mapping[str, Any],
) -> Session:
    """Reads and checks everything, the cheap things first.

    Raises:
        InputError: of the first thing that is wrong.
    """
    params = validated(SamplingParams, sampling, error=RequestError)
    rows = read_prompts(prompt, prompts)
    pool, report = open_pool(pool_name, dtype=dtype)
    check_synthetic(pool.config, params)
    target = pool.config.target.name
    tokenizer = Tokenizer.load(pool.directories[target])
    context_tokens = report.member(target).context_tokens
    ids = [row.encode(tokenizer, context_tokens=context_tokens) for row in rows]
    return Session(pool, report, params, rows, ids)
