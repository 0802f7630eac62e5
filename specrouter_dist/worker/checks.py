"""Whether a target can do what a request asks, whatever its client has checked."""

from collections.abc import Collection

from specrouter_dist.engine.interface import ModelInfo
from specrouter_dist.errors import RequestError
from specrouter_dist.links.control import Submit


def check_submit(submit: Submit, info: ModelInfo, tiered: Collection[str]) -> None:
    """The checks of a request.

    Args:
        submit: the request.
        info: of the target.
        tiered: slim members that may commit tokens before it.

    Raises:
        RequestError: names the field that is wrong.
    """
    num_tokens = len(submit.prompt) + len(submit.output)
    if not submit.prompt:
        raise RequestError("prompt: at least one token is needed", field="prompt")
    if num_tokens >= info.context_tokens:
        raise RequestError(
            f"prompt: {num_tokens} tokens do not fit the context of {info.context_tokens} "
            "tokens with one token to generate",
            field="prompt",
        )
    if max(submit.prompt) >= info.vocab_size:
        raise RequestError(
            f"prompt: token ids lie in [0, {info.vocab_size}), got {max(submit.prompt)}",
            field="prompt",
        )
    if submit.lossy is not None:
        _check_lossy(submit, tiered)


def _check_lossy(submit: Submit, tiered: Collection[str]) -> None:
    chain = submit.plan.chain if submit.plan else ()
    if len(chain) < 3 or chain[-2] not in tiered:
        raise RequestError(
            "chain: lossy needs a drafter, then a slim member of the target, then the target; "
            f"slim members here: {', '.join(tiered) or 'none'}; got {', '.join(chain) or 'none'}",
            field="chain",
        )
    if others := set(chain[:-2]).intersection(tiered):
        raise RequestError(
            f"chain: with lossy only one slim member, got {', '.join(sorted(others))} above "
            f"{chain[-2]}, which would write over what it has computed",
            field="chain",
        )
    sampling = submit.sampling
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        raise RequestError("logprobs: cannot be had with lossy", field="logprobs")
