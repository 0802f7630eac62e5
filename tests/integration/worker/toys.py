"""Workers with toy members: everything real but the models."""

import itertools
import queue
from array import array
from collections.abc import Sequence

from specrouter_dist.config import EdgeKnobs, LookupMember, Plan, SamplingParams
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.links.address import Address
from specrouter_dist.links.control import Cancel, Failed, Output, Submit
from specrouter_dist.links.hub import Hub
from specrouter_dist.routing.plans import PlanTable
from specrouter_dist.speculation.ending import StopIds
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.worker.lookup import LookupHost
from specrouter_dist.worker.member import Member
from specrouter_dist.worker.model_host import ModelHost
from specrouter_dist.worker.posts import SetDirectory
from specrouter_dist.worker.worker import Worker

AGREEMENTS = {"small": 0.6, "medium": 0.8, "target": 1.0}
SECRET = b"0123456789abcdef0123456789abcdef"
WAIT_S = 20.0


def engine(name: str, **options: int) -> ToyEngine:
    """The toy of that name; all speak one language."""
    seed = list(AGREEMENTS).index(name)
    return ToyEngine(model_seed=seed, agreement=AGREEMENTS[name], **options)


def plan(
    *chain: str, length: int = 4, number: int = 0, outcomes: int = 0, match_tokens: int = 0
) -> Plan:
    """A lock-step plan."""
    edges = tuple(
        EdgeKnobs(
            window=length * (i + 1),
            burst=length * (i + 1),
            patience=length,
            outcomes=outcomes,
            match_tokens=match_tokens,
        )
        for i in range(len(chain) - 1)
    )
    return Plan(number=number, chain=chain, edges=edges)


class Toys:
    """Workers over toys, linked by unix sockets; requests go to the target's."""

    def __init__(self, *groups: Sequence[str], **options: int) -> None:
        self._incarnations = itertools.count(1)
        self._requests = itertools.count(1)
        self._options = options
        self.engines: dict[str, ToyEngine] = {}
        self.workers: dict[str, Worker] = {}
        self.inboxes: dict[int, queue.SimpleQueue[Output | Failed]] = {}
        for group in groups:
            self.start(group)

    def start(self, group: Sequence[str]) -> None:
        """Starts a worker with these members, named after the first."""
        members: list[Member] = [LookupHost(LookupMember(kind="lookup"))]
        for name in group:
            self.engines[name] = engine(name, **self._options)
            members.append(ModelHost(name, self.engines[name], is_target=name == "target"))
        hub = Hub(group[0], next(self._incarnations), "here", SECRET)
        worker = Worker(
            members,
            hub,
            PlanTable.only(plan("target")),
            lambda submit: StopIds(submit.sampling.stop_token_ids),
            lambda message: self.inboxes[message.request].put(message),
        )
        for name in group:
            self.workers[name] = worker
        worker.start()
        self.publish()

    def publish(self) -> None:
        """Tells every worker where the others are."""
        addresses: dict[str, Address] = {n: w.hub.address for n, w in self.workers.items()}
        for worker in set(self.workers.values()):
            worker.hub.post(SetDirectory(addresses))

    def submit(self, prompt: Sequence[int], chain: Plan | None, sampling: SamplingParams) -> int:
        """Sends a request; returns its id."""
        request = next(self._requests)
        self.inboxes[request] = queue.SimpleQueue()
        ids: TokenArray = array(TOKEN_TYPECODE, prompt)
        empty: TokenArray = array(TOKEN_TYPECODE)
        self.workers["target"].submit(Submit(request, ids, sampling, chain, empty))
        return request

    def cancel(self, request: int) -> None:
        """Nobody wants the output any more."""
        self.workers["target"].submit(Cancel(request))

    def collect(self, request: int) -> tuple[list[int], Output]:
        """All tokens and the last message."""
        tokens: list[int] = []
        while True:
            message = self.inboxes[request].get(timeout=WAIT_S)
            if isinstance(message, Failed):
                raise AssertionError(message)
            assert message.start == len(tokens)
            tokens.extend(message.tokens)
            if message.finish_reason is not None:
                return tokens, message

    def stop(self) -> None:
        """Ends all workers; none may have failed."""
        workers = set(self.workers.values())
        for worker in workers:
            worker.stop()
        assert [w.error for w in workers if w.error] == []
