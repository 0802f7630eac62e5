"""A member of a worker without a model."""

from specrouter_dist.config import LookupMember
from specrouter_dist.speculation.ending import Ending
from specrouter_dist.speculation.lookup import LookupStage
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.session import Session


class LookupHost:
    """A member without a model: proposals come from the text itself."""

    lives_in: str | None = None

    def __init__(self, config: LookupMember) -> None:
        self.name = config.name
        self.path: tuple[str, ...] = (config.name,)
        self._config = config

    def open(self, request: Opening, ending: Ending) -> tuple[LookupStage, None]:
        """Indexes the text; where it ends is the verifier's business."""
        stage = LookupStage(
            request.tokens,
            prompt_tokens=request.prompt_tokens,
            end=request.end,
            min_match_tokens=self._config.min_match_tokens,
            max_match_tokens=self._config.max_match_tokens,
        )
        return stage, None

    def drop_guesses(self, session: Session) -> None:
        """There is nothing to free."""

    def close(self, session: Session) -> None:
        """There is nothing to free."""
