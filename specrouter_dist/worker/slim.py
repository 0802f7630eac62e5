"""A slim member in its target's worker: two lengths, one storage (:mod:`~...engine.slim`).

The target's session of a request and the slim member's are on the one engine thread, so neither
is in a forward while the other is asked.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specrouter_dist.config import LayerSkipMember
from specrouter_dist.engine.factory import load_slim
from specrouter_dist.engine.interface import Picks
from specrouter_dist.errors import UnavailableError
from specrouter_dist.routing.observations import Observations
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.steps import Step
from specrouter_dist.worker.member import Opening
from specrouter_dist.worker.model_host import ModelHost, slot_of
from specrouter_dist.worker.session import Session

if TYPE_CHECKING:
    from specrouter_dist.engine.slim import SlimEngine


class SlimHost(ModelHost):
    """A layer-skipped sub-model of ``target``.

    It prepares no outcomes: forks of its sessions would be forks of the target's.
    """

    def __init__(self, name: str, engine: "SlimEngine", target: ModelHost) -> None:
        super().__init__(name, engine, is_target=False)
        self.lives_in = target.name
        self.target = target
        self.slim = engine

    def close(self, session: Session) -> None:
        """The storage stays with the target."""
        super().close(session)
        assert session.owner is not None
        session.owner.guests.remove(session)

    def take_steps(self, now: float, observations: Observations) -> list[tuple[Session, Step]]:
        """Also rests what cannot follow the target now; the Truth that changes that is underway."""
        for session in [s for s in self.ready if not self._follow(s)]:
            del self.ready[session]
        return super().take_steps(now, observations)

    def forward(
        self, batch: Sequence[tuple[Session, Step]], observations: Observations
    ) -> list[tuple[Session, TokenArray, Picks]]:
        """What other slim members had at these positions is overwritten."""
        grown = super().forward(batch, observations)
        for session, step in batch:
            assert session.owner is not None
            for other in session.owner.guests:
                if other is not session:
                    other.lose_cache(step.start)
        return grown

    def prepare(self) -> bool:
        """It does not."""
        return False

    def _take_slot(self, request: Opening, tokens: TokenArray, end: int) -> tuple[int, int]:
        if request.owner is None:
            raise UnavailableError(f"{self.lives_in} does not hold the request of {self.name}")
        slot = slot_of(request.owner)
        self.slim.join(slot, request.sampling, request.prompt_tokens)
        return slot, 0

    def _free_slot(self, slot: int) -> None:
        self.slim.leave(slot)

    def _follow(self, session: Session) -> bool:
        """Takes over what the target has cached; whether a step would leave that as it is.

        It would not where the two streams differ within what the target has cached: the slim
        member's own KV would have to be where the target's is.
        """
        assert session.owner is not None
        stage, target = session.model_stage, session.owner.model_stage
        kv_len = target.kv_len
        if kv_len < session.prompt_tokens or len(stage.tokens) <= kv_len:
            return False
        if stage.tokens.hash_at(kv_len) != target.tokens.hash_at(kv_len):
            return False
        if stage.kv_len < kv_len:
            known = stage.tokens.slice(stage.kv_len, kv_len)
            self.slim.follow(slot_of(session), stage.kv_len, known)
            stage.kv_len = kv_len
        return True


def slim_hosts(members: Sequence[LayerSkipMember], target: ModelHost) -> list[ModelHost]:
    """The slim members of a worker that holds ``target``."""
    return [SlimHost(m.name, load_slim(m, target.engine), target) for m in members]
