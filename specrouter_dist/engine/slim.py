"""A layer-skipped sub-model of a target: its weights and KV storage, no memory of its own.

After VIA-SD (arXiv 2606.12243). A session of a request's slim verifier is the target's session of
that request, seen with another length: up to the target's ``kv_len`` it reads what the target has
computed, in the layers that it keeps, and behind it, where nothing of the target's is valid, it
writes its own. The target overwrites that when it verifies. Who drives the two must see to it that
the slim model never feeds below the target's ``kv_len``.
"""

from collections.abc import Collection
from dataclasses import replace

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.speculation.messages import TokenArray


class SlimEngine(FastEngine):
    """The engine of a target, not computing some parts (implements ``Engine``).

    Sessions of its own, which are opened as everywhere, take slots and pages of the target's; they
    find the pages that the target has published.

    Args:
        target: whose weights, KV storage and sessions these are.
        mask: parts that are left out (:meth:`Decoder.without`).
        name: of the member; what it picks in a synthetic pool goes by it.
    """

    def __init__(self, target: FastEngine, mask: Collection[str], name: str = "slim") -> None:
        info = target.info
        super().__init__(
            target._decoder.without(mask),
            target._sessions,
            target._sampler.of_member(name),
            replace(info, weight_bytes=0, kv_bytes=0),
        )
        self._target = target

    def join(self, slot: int, sampling: SamplingParams, prompt_tokens: int) -> None:
        """Begins to run in the target's ``slot``."""
        self._sampler.open(slot, sampling, prompt_tokens, beside=self._target._sampler)

    def leave(self, slot: int) -> None:
        """Runs in the target's ``slot`` no more."""
        self._sampler.close(slot)

    def follow(self, slot: int, start: int, tokens: TokenArray) -> None:
        """The target has fed ``tokens`` at ``start`` in ``slot``, where they stand."""
        self._sampler.follow(slot, start, tokens)

    def publish(self, slot: int, tokens: TokenArray) -> None:
        """What the slim model has computed is of no use to others."""
