"""What steps of each member cost when they take turns, the device's memory, and what follows."""

import gc
import statistics
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from tqdm import trange

from specrouter_dist.config import SamplingParams
from specrouter_dist.engine.factory import load_engine, load_slim
from specrouter_dist.engine.interface import Engine, Extension
from specrouter_dist.pools.checks import PoolReport
from specrouter_dist.pools.llama_sizes import read_sizes
from specrouter_dist.pools.loading import Pool, model_members, model_names, slim_members
from specrouter_dist.routing.agreement import AgreementTable
from specrouter_dist.routing.evidence import Evidence, Source
from specrouter_dist.routing.latency import LatencyTable
from specrouter_dist.routing.observations import ForwardKey, ForwardTimes
from specrouter_dist.routing.pace import PaceTable
from specrouter_dist.routing.planner import Planner
from specrouter_dist.routing.state import EvidenceState
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.speculation.agreeing import law_of
from specrouter_dist.speculation.messages import TOKEN_TYPECODE

_GREEDY = SamplingParams(temperature=0.0, max_tokens=64)
_NUM_ROWS = (17, 12, 9, 8, 7, 6, 5, 4, 3, 2, 1)
"""The last is also the time of a block of one token, in the router's table."""
_NUM_DRAFTS = (1, 3, 7, 15)
_WARM_UP = 3
_CERTAIN = 1e9
"""Proposals that have been judged, where agreement is known."""
_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Of steps, the engine alone."""

    samples_us: Mapping[tuple[str, int, int], Sequence[float]]
    """By member, rows, and tokens drawn behind the first one."""
    context_tokens: int
    target: str
    target_step_bytes: int
    """Weights and keys and values that a step of one row of the target reads."""

    def __add__(self, later: "StageTimes") -> "StageTimes":
        """These and ones that were taken later of the same members."""
        joined = {key: [*us, *later.samples_us[key]] for key, us in self.samples_us.items()}
        return replace(self, samples_us=joined)

    @property
    def steps_us(self) -> dict[tuple[str, int, int], float]:
        """The medians."""
        return {key: statistics.median(us) for key, us in self.samples_us.items()}

    @property
    def alone_us(self) -> float:
        """A step of the target."""
        return statistics.median(self.samples_us[self.target, 1, 0])

    def planner(self, pool: Pool, devices: Mapping[str, str]) -> Planner:
        """A planner that knows these times and the stated agreements, and no hop."""
        latency = LatencyTable(hop_us=0.0)
        for (member, num_rows, num_drafts), us in self.steps_us.items():
            key = ForwardKey(member, num_rows, 1, num_drafts, context_tokens=self.context_tokens)
            latency.profile(key, ForwardTimes(1, us))
        tables = latency, stated_agreement(pool), PaceTable()
        return Planner(tuple(model_names(pool)), (), devices, *tables)


def stated_agreement(pool: Pool) -> AgreementTable:
    """What a synthetic pool's file says, as if it had been seen for ever."""
    assert pool.config.synthetic is not None
    agreements = pool.config.synthetic.agreements
    names = model_names(pool)
    law, _ = law_of(agreements, names[-1])
    indices = {name: law_of(agreements, name)[1] for name in names}
    states = []
    for draft, verifier in combinations(names, 2):
        evidence = Evidence.expected(law.agreement(indices[draft], indices[verifier]), _CERTAIN)
        counts = tuple(evidence.reached), tuple(evidence.accepted), evidence.num_blocks
        states.append(
            EvidenceState(draft, verifier, GREEDY, Source.CHAINED.value, *counts, 0.0, 0.0)
        )
    table = AgreementTable()
    table.restore(states, (), 0.0)
    return table


def measure(pool: Pool, report: PoolReport, *, context_tokens: int, repeats: int) -> StageTimes:
    """Loads every member, times its steps, and lets it go.

    One step of every member after the other: each finds caches as the others have left them, as in
    a chain.
    """
    _give_memory_back()
    members = model_members(pool)
    engines: dict[str, Engine] = {
        member.name: load_engine(
            member,
            pool.directories[member.name],
            num_ids=report.num_ids,
            exact=pool.config.exact,
            synthetic=pool.config.synthetic,
        )
        for member in members
    }
    target = members[-1]
    engines |= {slim.name: load_slim(slim, engines[target.name]) for slim in slim_members(pool)}
    samples = _sample(engines, target.name, context_tokens, repeats)
    info = engines[target.name].info
    engines.clear()
    _give_memory_back()
    sizes = read_sizes(pool.directories[target.name])
    # Of the embedding a step reads one row.
    embedding = sizes.vocab_size * sizes.hidden_size
    weight_bytes = info.weight_bytes * (1 - embedding / sizes.num_parameters)
    kv_bytes = info.kv_bytes / target.kv_tokens * context_tokens
    return StageTimes(
        samples,
        context_tokens,
        target.name,
        round(weight_bytes + kv_bytes),
    )


def _give_memory_back() -> None:
    """Who loads next asks the device how much is free."""
    gc.collect()
    torch.cuda.empty_cache()


def _sample(
    engines: Mapping[str, Engine], target: str, context_tokens: int, repeats: int
) -> dict[tuple[str, int, int], list[float]]:
    samples: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    slots = {name: _filled(engine, context_tokens) for name, engine in engines.items()}
    kinds = [(rows, 0) for rows in _NUM_ROWS] + [(1, drafts) for drafts in _NUM_DRAFTS]
    for turn in trange(_WARM_UP + repeats, desc="stage times", leave=False):
        for (num_rows, num_drafts), name in product(kinds, engines):
            if num_drafts and name == target:
                continue
            us = _step_us(engines[name], slots[name], context_tokens, num_rows, num_drafts)
            if turn >= _WARM_UP:
                samples[name, num_rows, num_drafts].append(us)
    return samples


def _filled(engine: Engine, context_tokens: int) -> int:
    """A session of so many tokens."""
    engine.set_threads(1)
    slot = engine.open(_GREEDY, context_tokens, context_tokens + _NUM_ROWS[0] + 1)
    engine.extend([Extension(slot, 0, array(TOKEN_TYPECODE, [5] * context_tokens), 1)])
    return slot


def _step_us(engine: Engine, slot: int, start: int, num_rows: int, num_drafts: int) -> float:
    tokens = array(TOKEN_TYPECODE, [5] * num_rows)
    num_picks = 1 if num_drafts else num_rows
    extension = Extension(slot, start, tokens, num_picks, num_drafts)
    began = time.perf_counter()
    engine.extend([extension])
    return (time.perf_counter() - began) * 1e6


def bandwidth_bytes_per_s(device: str, repeats: int = 7) -> float:
    """The most that a large copy or a matrix-vector product moves, on one core or one GPU."""
    torch.set_num_threads(1)
    num = _COPIED_BYTES[device] // 4
    source = torch.ones(num, device=device)
    copy, matrix = torch.empty_like(source), source.view(-1, 4096)
    vector, result = torch.ones(4096, device=device), torch.empty(num // 4096, device=device)
    ways: Sequence[tuple[int, Callable[[], object]]] = (
        (8 * num, lambda: copy.copy_(source)),
        (4 * num, lambda: torch.mv(matrix, vector, out=result)),
    )
    return max(num_bytes / _fastest_s(way, device, repeats) for num_bytes, way in ways)


def _fastest_s(work: Callable[[], object], device: str, repeats: int) -> float:
    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(1 + repeats):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return min(times[1:])
