"""A worker with slim members of its target, whose every forward is checked."""

import itertools
import queue
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from specrouter_dist.config import (
    Dtype,
    EdgeKnobs,
    LayerSkipMember,
    LookupMember,
    LossyParams,
    Plan,
    Quantization,
    SamplingParams,
)
from specrouter_dist.engine.interface import Extension, Picks
from specrouter_dist.links.control import Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.worker.lookup import LookupHost
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.session import Session
from specrouter_dist.worker.slim import slim_hosts
from specrouter_dist.worker.worker import Worker
from tests.integration.worker.toys import SECRET, WAIT_S
from tests.unit.engine.fast_models import load

MEMBERS = [
    LayerSkipMember(kind="layer_skip", name=name, of="target", mask=mask)
    for name, mask in (("slimmer", ("1.mlp", "2.attention", "3.mlp")), ("slim", ("2.attention",)))
]


LOCK_STEP = EdgeKnobs(window=4, burst=4, patience=4, patience_ms=5)
AHEAD = EdgeKnobs(window=12, burst=5, patience=2, patience_ms=5)
OWN_TEXT = EdgeKnobs(window=6, burst=4, patience=2, patience_ms=5, match_tokens=1)


class Storage:
    """Who has written which token's KV where, beside the engine; checks every forward.

    Invariant 2 of a slim session: what it reads was computed from its own tokens, by the target or
    by itself. And the target reads only what it has written.
    """

    def __init__(self) -> None:
        self.worker: Worker
        self.after_target: Callable[[], None] = lambda: None
        self.num_checked = 0
        self.num_rejected = 0
        self._written: dict[tuple[int, int], tuple[str, int]] = {}
        """Writer and token by slot and position."""

    def watch(self, host: ModelHost) -> None:
        """From now on every forward of the host is checked."""
        extend = host.engine.extend

        def checked(batch: Sequence[Extension]) -> list[Picks]:
            for extension in batch:
                self._check(host, extension)
            picks = extend(batch)
            for extension, drawn in zip(batch, picks, strict=True):
                drafts = drawn.tokens[extension.num_picks - 1 : -1] if extension.num_picks else ()
                for i, token in enumerate((*extension.tokens, *drafts)):
                    self._written[extension.slot, extension.start + i] = host.name, token
            if host.is_target:
                self.after_target()
            return picks

        host.engine.extend = checked  # type: ignore[method-assign]
        if host.is_target:
            self._watch_reuse(host)

    def _watch_reuse(self, target: ModelHost) -> None:
        reuse = target.engine.reuse

        def noted(slot: int, tokens: TokenArray) -> int:
            num_reused = reuse(slot, tokens)
            for position in range(num_reused):
                self._written[slot, position] = target.name, tokens[position]
            return num_reused

        target.engine.reuse = noted  # type: ignore[method-assign]

    def _check(self, host: ModelHost, extension: Extension) -> None:
        session = self._session(host, extension.slot)
        if session is None:
            return  # A text that is read.
        tokens = session.model_stage.tokens
        for position in range(extension.start):
            writer, token = self._written[extension.slot, position]
            assert token == tokens[position], (host.name, position)
            assert writer in ("target", host.name)
        if host.lives_in:
            owner = session.owner or session
            assert extension.start >= owner.model_stage.kv_len
        self.num_checked += 1

    def _session(self, host: ModelHost, slot: int) -> Session | None:
        sessions = self.worker._chains.sessions
        return next((s for s in sessions if host.name in s.member.path and s.slot == slot), None)


class Slims:
    """A worker with a target, slim members of it and two drafters."""

    def __init__(self, directory: Path) -> None:
        self.storage = Storage()
        self.target = load(directory, kv_tokens=4096)
        draft = load(directory, exact=False, quantization=Quantization.INT8)
        medium = load(directory, exact=False, dtype=Dtype.BF16)
        host = ModelHost("target", self.target, is_target=True)
        slims = slim_hosts(MEMBERS, host)
        for watched in (*slims, host):
            self.storage.watch(watched)
        self._inboxes: dict[int, queue.SimpleQueue[Output | Failed]] = {}
        self._ids = itertools.count(1)
        self.worker = self.storage.worker = Worker(
            [
                LookupHost(LookupMember(kind="lookup", min_match_tokens=1)),
                ModelHost("draft", draft, is_target=False),
                ModelHost("medium", medium, is_target=False),
                *slims,
                host,
            ],
            Hub("all", 1, "here", SECRET),
            PlanTable.only(Plan(chain=("target",))),
            lambda submit: StopIds(submit.sampling.stop_token_ids),
            lambda message: self._inboxes[message.request].put(message),
        )
        self.worker.start()

    def texts(
        self, chain: Sequence[str], knobs: EdgeKnobs, sampling: SamplingParams, num: int = 4
    ) -> list[list[int]]:
        """Of ``num`` requests at a time."""
        return self.planned(
            Plan(chain=tuple(chain), edges=(knobs,) * (len(chain) - 1)), sampling, num
        )

    def planned(self, plan: Plan, sampling: SamplingParams, num: int = 4) -> list[list[int]]:
        """The same with knobs for each edge."""
        requests = [self.submit(plan, sampling, number) for number in range(num)]
        return [self.collect(request)[0] for request in requests]

    def submit(
        self,
        plan: Plan,
        sampling: SamplingParams,
        number: int,
        lossy: LossyParams | None = None,
        output: Sequence[int] = (),
    ) -> int:
        """The request of that number, with a prompt and a seed of its own; returns its id."""
        request = next(self._ids)
        self._inboxes[request] = queue.SimpleQueue()
        prompt = array(TOKEN_TYPECODE, [(number + 3 * i) % 120 for i in range(20 + 17 * number)])
        own = sampling.model_copy(update={"seed": number})
        before = array(TOKEN_TYPECODE, output)
        self.worker.submit(Submit(request, prompt, own, plan, before, lossy=lossy))
        return request

    def collect(self, request: int) -> tuple[list[int], dict[str, Any]]:
        """Its tokens and its counters."""
        tokens: list[int] = []
        while True:
            message = self._inboxes[request].get(timeout=WAIT_S)
            assert isinstance(message, Output), message
            tokens.extend(message.tokens)
            if message.finish_reason is not None:
                assert message.stats is not None
                stats: dict[str, Any] = message.stats
                self.storage.num_rejected += sum(truncations for *_, truncations in stats["levels"])
                return tokens, stats

    def refusal(self, request: int) -> Failed:
        """Why it was refused."""
        message = self._inboxes[request].get(timeout=WAIT_S)
        assert isinstance(message, Failed), message
        return message
