"""What a worker needs of a member, be it a model or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specrouter_dist.config import LossyParams, SamplingParams
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.speculation.stage import Stage
from specrouter_dist.worker.session import Session


@dataclass(frozen=True, slots=True)
class Opening:
    """What a new session starts from."""

    tokens: Sequence[int]
    """The stream so far, prompt first."""
    prompt_tokens: int
    end: int
    """No position at or beyond it is wanted."""
    sampling: SamplingParams
    owner: Session | None = None
    """The session of the same request at the member that this one lives in."""
    lossy: LossyParams | None = None
    """At the target, of a request that wants tokens which it has not verified."""


class Member(Protocol):
    """What a worker needs of a member, be it a model or not."""

    name: str
    path: tuple[str, ...]
    lives_in: str | None
    """The member in whose sessions this one's are; None: they are its own."""

    def open(self, request: Opening, ending: Ending) -> tuple[Stage | LookupStage, int | None]:
        """A stage, and the engine's slot where there is one.

        Raises:
            NoRoomError: slots or KV blocks are used up.
        """
        ...

    def drop_guesses(self, session: Session) -> None:
        """Frees what was prepared for the session."""
        ...

    def close(self, session: Session) -> None:
        """Frees what the session holds here."""
        ...
