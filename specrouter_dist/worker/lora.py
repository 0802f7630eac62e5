"""A drafter with LoRA adapters in one worker: one forward for the sessions of all of them.

To everybody else an adapter is a member like others: its sessions, what is prepared for them and
what they are observed to agree are its own. Only its steps are run by its base.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from specrouter_dist.config import LoraMember, ModelMember
from specrouter_dist.engine.factory import load_adapted
from specrouter_dist.engine.interface import Engine
from specrouter_dist.routing.observations import ForwardKey, Observations
from specrouter_dist.speculation.steps import Step
from specrouter_dist.worker.model_host import ModelHost, host_of
from specrouter_dist.worker.session import Session


class AdaptedHost(ModelHost):
    """A drafter that runs its adapters' steps with its own, in one ragged batch."""

    def __init__(self, name: str, engine: Engine) -> None:
        super().__init__(name, engine, is_target=False)
        self.adapters: list[AdapterHost] = []
        self._num_batches = 0

    def give_way(self) -> None:
        """Guesses of all: they take the same slots and pages."""
        super().give_way()
        for adapter in self.adapters:
            adapter.preparations.give_way()

    def answer(self, observations: Observations, touch: Callable[[Session], None]) -> bool:
        """Of its own sessions and the adapters'."""
        answers = [adapter.answer(observations, touch) for adapter in self.adapters]
        return super().answer(observations, touch) or any(answers)

    def take_steps(self, now: float, observations: Observations) -> list[tuple[Session, Step]]:
        """Steps of one member lie side by side: its rows are one run."""
        batch = super().take_steps(now, observations)
        for adapter in self.adapters:
            batch += adapter.take_steps(now, observations)
        return batch

    def turn_key(self, batch: Sequence[tuple[Session, Step]]) -> ForwardKey | None:
        """One forward is one measurement: of one of its sessions' members, each in its turn."""
        self._num_batches += 1
        host = host_of(batch[self._num_batches % len(batch)][0])
        return super().turn_key(batch) if host is self else host.turn_key(batch)


class AdapterHost(ModelHost):
    """An adapter; ``base`` asks it for steps, the worker does not."""

    def __init__(self, name: str, engine: Engine, base: AdaptedHost) -> None:
        super().__init__(name, engine, is_target=False)
        self._base = base
        base.adapters.append(self)

    def give_way(self) -> None:
        """Guesses of the base and of all adapters."""
        self._base.give_way()


def hosts_of(
    member: ModelMember, engine: Engine, directory: Path, adapters: Sequence[LoraMember]
) -> list[ModelHost]:
    """A model's host, and those of the adapters on it.

    Args:
        member: the model.
        engine: of it.
        directory: of it.
        adapters: members of the pool, with absolute directories; those on others are left out.

    Raises:
        ConfigError: an adapter is broken or does not fit.
        EngineError: the model's engine takes none.
    """
    own = [adapter for adapter in adapters if adapter.of == member.name]
    if not own:
        return [ModelHost(member.name, engine, is_target=member.role == "target")]
    base = AdaptedHost(member.name, engine)
    return [base, *(AdapterHost(a.name, load_adapted(a, engine, directory), base) for a in own)]
