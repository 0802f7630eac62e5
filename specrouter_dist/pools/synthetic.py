"""What requests may ask of a synthetic pool, whose members have picks and no laws."""

from specrouter_dist.config import PoolConfig, SamplingParams
from specrouter_dist.errors import RequestError


def check_synthetic(pool: PoolConfig, sampling: SamplingParams) -> None:
    """
    Raises:
        RequestError: the pool is synthetic, and a parameter needs a law; names it.
    """
    if pool.synthetic is not None:
        refuse_laws(sampling)


def refuse_laws(sampling: SamplingParams) -> None:
    """
    Raises:
        RequestError: of the first parameter that needs the law of a member; names it.
    """
    needed = {
        "logprobs": sampling.logprobs is not None,
        "prompt_logprobs": sampling.prompt_logprobs is not None,
        "logit_bias": bool(sampling.logit_bias),
        "repetition_penalty": sampling.repetition_penalty != 1.0,
        "presence_penalty": sampling.presence_penalty != 0.0,
        "frequency_penalty": sampling.frequency_penalty != 0.0,
        "top_p": sampling.top_p < 1.0,
        "top_k": sampling.top_k > 0,
        "min_p": sampling.min_p > 0.0,
    }
    for field, is_needed in needed.items():
        if is_needed:
            raise RequestError(
                f"{field}: cannot be had of members with engine 'synthetic', which have picks and "
                f"no probabilities; got {getattr(sampling, field)!r}",
                field=field,
            )
