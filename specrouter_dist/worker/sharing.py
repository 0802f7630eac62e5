"""Which finished texts are given to the pool's members to read."""

from collections.abc import Callable

from specrouter_dist.links.control import Settled, Submit
from specrouter_dist.routing.observations import Observations, Reading
from specrouter_dist.worker.chains import Chains
from specrouter_dist.worker.reading import MAX_TOKENS
from specrouter_dist.worker.session import Session

_EVERY_S = 0.5
"""At most so often one is."""
_LEAST_TOKENS = 8
"""Output tokens of a text worth reading."""


class Sharing:
    """A target's texts teach the router what every pair of members would have made of them.

    Args:
        target: name of the member whose texts they are.
        chains: whose members are told.
        observations: where measurements go now.
        clock: seconds.
    """

    def __init__(
        self,
        target: str,
        chains: Chains,
        observations: Callable[[], Observations],
        clock: Callable[[], float],
    ) -> None:
        self._target = target
        self._chains = chains
        self._observations = observations
        self._clock = clock
        self._next_s = 0.0
        """No text is shared before."""

    def share(self, submit: Submit, session: Session) -> None:
        """The finished text, if it is the target's. One that wants no drafter costs none anything,
        this included."""
        plan = submit.plan
        if submit.lossy is not None or (plan and len(plan.chain) == 1):
            return
        tokens, prompt_tokens = session.model_stage.tokens, session.prompt_tokens
        now_s = self._clock()
        is_worth_it = len(tokens) - prompt_tokens >= _LEAST_TOKENS
        if now_s < self._next_s or len(tokens) > MAX_TOKENS or not is_worth_it:
            return
        self._next_s = now_s + _EVERY_S
        text = tokens.slice(0, len(tokens))
        self._observations().readings.append(
            Reading(
                session.id,
                self._target,
                session.traffic,
                picks=text[prompt_tokens:],
                prompt=text[:prompt_tokens],
            )
        )
        self._chains.upstreams.tell_others(
            Settled(session.id, prompt_tokens, text, session.sampling, submit.task)
        )
