"""How many tokens a target draws for requests without drafters before it looks at its mail."""

from collections.abc import Collection, Sequence

from specrouter_dist.engine.interface import Extension
from specrouter_dist.speculation.steps import run_tokens
from specrouter_dist.worker.session import Session

_NEWEST = 0.2
"""Weight of the newest time."""


class Runs:
    """What its tokens take at present, all its sessions at once."""

    def __init__(self) -> None:
        self._token_us: float | None = None

    def note(self, batch: Sequence[Extension], elapsed_us: float) -> None:
        """A forward has been made, and one for each draft behind it."""
        if any(len(extension.tokens) > 1 for extension in batch):
            return
        token_us = elapsed_us / (1 + max(extension.num_drafts for extension in batch))
        before_us = token_us if self._token_us is None else self._token_us
        self._token_us = before_us + _NEWEST * (token_us - before_us)

    def allow(self, sessions: Collection[Session]) -> None:
        """Says how many tokens these may draw in their next step: one while any of them has a
        prompt to feed or a drafter, which would wait for the others' tokens."""
        may_run = self._token_us is not None and all(map(_is_alone, sessions))
        num_tokens = run_tokens(self._token_us) if may_run and self._token_us else 1
        for session in sessions:
            session.model_stage.max_drafts = num_tokens


def _is_alone(session: Session) -> bool:
    stage = session.model_stage
    return stage.up is None and stage.kv_len >= session.prompt_tokens
