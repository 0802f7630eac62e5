"""Arms measured: each alone and briefly, for a choice among them; or in turn, to be compared."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from tqdm import tqdm

from benchmarks.peers.lines import Answer, Request
from benchmarks.peers.settings import OURS, Arm, Peer
from benchmarks.peers.worker import Worker, WorkerError

_SETTLE_S = 0.3
"""Pause before a pass: the threads of the worker before spin for 0.2 s behind their last work."""

Start = Callable[[Arm], Worker]
"""Starts an arm's worker."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What every arm is asked."""

    prompts: Sequence[Sequence[int]]
    """Token ids."""
    max_tokens: int
    ignore_eos: bool

    def requests(self, arm: Arm, temperature: float) -> list[Request]:
        """One per prompt, each with a seed of its own."""
        chain = None if arm.chain is None else list(arm.chain)
        return [
            Request(list(ids), self.max_tokens, temperature, seed, self.ignore_eos, chain)
            for seed, ids in enumerate(self.prompts)
        ]


@dataclass(slots=True)
class Measured:
    """One arm's counted passes."""

    arm: Arm
    answers: list[list[Answer]] = field(default_factory=list)
    """By pass and prompt."""
    cpu_s: list[float] = field(default_factory=list)
    """Processor time of its processes, by pass."""
    idle_share: list[float] = field(default_factory=list)
    """Processor time of all others' processes meanwhile, over the time; 1 is one core."""
    rss_bytes: int = 0
    """Of its worker's processes, after the last pass."""

    def speeds(self) -> list[float]:
        """Tokens per second, by pass."""
        return [tokens_per_second(answers) for answers in self.answers]


@dataclass(slots=True)
class Sweep:
    """The brief measurements of a peer."""

    speeds: dict[float, dict[str, float]]
    """Tokens per second by temperature and arm."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why an arm was not measured."""


def tokens_per_second(answers: Sequence[Answer]) -> float:
    """Counted in ids that came, prefills included."""
    num_tokens = sum(len(answer.token_ids) for answer in answers)
    return 1e3 * num_tokens / sum(answer.total_ms for answer in answers)


def best_arms(speeds: Mapping[str, float], count: int) -> list[str]:
    """The fastest ``count``, best first; of equals the one that was measured first."""
    return sorted(speeds, key=lambda name: -speeds[name])[:count]


def sweep(
    peer: Peer, temperatures: Sequence[float], workload: Workload, start: Start, count: int
) -> tuple[Sweep, dict[float, list[Arm]]]:
    """A peer's finalists by temperature: its fastest ``count`` arms, and it alone.

    The mode is chosen alone, at the first temperature; then the settings, in that mode. Where all
    would be finalists, nothing is measured.
    """
    found = Sweep({temperature: {} for temperature in temperatures})
    alone, *others = peer.settings
    if len(peer.modes) == 1 and len(others) <= count:
        every = [peer.arm(setting, peer.modes[0]) for setting in peer.settings]
        return found, dict.fromkeys(temperatures, every)
    by_mode = {peer.arm(alone, mode).name: mode for mode in peer.modes}
    _measure_each([peer.arm(alone, mode) for mode in peer.modes], workload, start, found)
    fastest = best_arms(found.speeds[temperatures[0]], 1)
    if not fastest:
        return found, {temperature: [] for temperature in temperatures}
    mode = by_mode[fastest[0]]
    arms = [peer.arm(setting, mode) for setting in others]
    _measure_each(arms, workload, start, found)
    arms.insert(0, peer.arm(alone, mode))
    finalists = {}
    for temperature, speeds in found.speeds.items():
        in_mode = {arm.name: speeds[arm.name] for arm in arms if arm.name in speeds}
        names = {arms[0].name, *best_arms(in_mode, count)}
        finalists[temperature] = [arm for arm in arms if arm.name in names]
    return found, finalists


def _measure_each(arms: Sequence[Arm], workload: Workload, start: Start, found: Sweep) -> None:
    """One worker after the other, each ended before the next starts."""
    for arm in tqdm(arms, desc=f"sweep of {arms[0].system}", leave=False):
        try:
            with start(arm) as worker:
                for temperature, speeds in found.speeds.items():
                    requests = workload.requests(arm, temperature)
                    worker.ask(requests[0])
                    speeds[arm.name] = tokens_per_second([worker.ask(r) for r in requests])
        except WorkerError as error:
            found.absent[arm.name] = str(error)
            for speeds in found.speeds.values():
                speeds.pop(arm.name, None)


def measure(
    arms: Sequence[Arm],
    temperature: float,
    workload: Workload,
    start: Start,
    num_passes: int,
    *,
    settle_s: float = _SETTLE_S,
) -> tuple[list[Measured], dict[str, str]]:
    """Every arm in every pass, in rotating order; one pass is run before and not counted.

    Returns:
        the arms measured, and why others are absent.

    Raises:
        WorkerError: one of our own does not start, or any fails in a pass.
    """
    with ExitStack() as stack:
        workers, absent = _start_all(arms, start, stack)
        measured = [Measured(arm) for arm in arms if arm.worker in workers]
        for turn in tqdm(range(-1, num_passes), desc=f"passes at T={temperature}"):
            for k in range(len(measured)):
                row = measured[(turn + k) % len(measured)]
                worker = workers[row.arm.worker]
                idle = [other for other in workers.values() if other is not worker]
                requests = workload.requests(row.arm, temperature)
                time.sleep(settle_s)
                counted = row if turn >= 0 else Measured(row.arm)
                _run_pass(counted, worker, idle, requests)
        for row in measured:
            row.rss_bytes = workers[row.arm.worker].rss_bytes()
    return measured, absent


def _start_all(
    arms: Sequence[Arm], start: Start, stack: ExitStack
) -> tuple[dict[object, Worker], dict[str, str]]:
    """The workers that ``arms`` share, and why a peer's is absent."""
    workers: dict[object, Worker] = {}
    absent: dict[str, str] = {}
    for arm in arms:
        if arm.worker in workers:
            continue
        try:
            workers[arm.worker] = stack.enter_context(start(arm))
        except WorkerError as error:
            if arm.system == OURS:
                raise
            absent[arm.name] = str(error)
    return workers, absent


def _run_pass(
    row: Measured, worker: Worker, idle: Sequence[Worker], requests: Sequence[Request]
) -> None:
    """One pass of an arm, and what its own and the idle workers took meanwhile."""
    own_s, idle_s = worker.cpu_s(), sum(other.cpu_s() for other in idle)
    started_s = time.perf_counter()
    row.answers.append([worker.ask(request) for request in requests])
    passed_s = time.perf_counter() - started_s
    row.cpu_s.append(worker.cpu_s() - own_s)
    row.idle_share.append((sum(other.cpu_s() for other in idle) - idle_s) / passed_s)
