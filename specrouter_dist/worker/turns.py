"""In which order the models of a worker have their turns."""

from collections.abc import Iterator, Sequence

from specrouter_dist.worker.model_host import ModelHost


class Turns:
    """The models of a worker, in the order in which they are asked for a forward.

    Those that write for clients are asked before the others: what they settle decides what the
    others do. Where there are several of them, each has its turn before one has another: all may
    have something to do at all times.

    Args:
        fronts: write for clients.
        others: draft for them.
    """

    def __init__(self, fronts: Sequence[ModelHost], others: Sequence[ModelHost]) -> None:
        self._order = [*fronts, *others]
        self._last_front = len(fronts) - 1

    def __iter__(self) -> Iterator[ModelHost]:
        return iter(self._order)

    def had(self, model: ModelHost) -> None:
        """``model`` has had a turn."""
        if model.is_target and self._last_front > 0:
            self._order.remove(model)
            self._order.insert(self._last_front, model)
