"""What the planner chooses against the best of all chains, both simulated.

Every chain of a pool runs with a grid of draft lengths, in lock-step and drafting ahead; the most
promising again, each time fewer of them on longer texts, so that the best is not just the
luckiest. The planner knows the true times, hops and survival of every pair; what it loses is the
fault of its formula.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.errors import ConfigError
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.planner import Candidate, Planner, to_plan
from specrouter_dist.routing.traffic import GREEDY
from specrouter_dist.simulation.measuring import new_router, teach
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Profile
from specrouter_dist.simulation.steady import token_us

_LENGTHS = (1, 2, 4, 7, 12)
_AHEADS = ((0, 0), (1, 1), (1, 4), (3, 1), (3, 4))
"""So many of the last edges draft ahead, and how many blocks."""
_ROUNDS = ((200, 12), (800, 6), (3000, 3))
"""Tokens of a run, and how many plans are kept for the next, longer one."""
_NUM_REFINED = 3
"""Plans whose neighbours are tried, too, after the first round."""
_FINAL_TOKENS = 16_000
_TRUTH_TOKENS = 30_000
_PATIENCE_MS = 1e6
_UNKNOWN_US = 1e4


@dataclass(frozen=True, slots=True)
class Regret:
    """The planner's choice and the best plan found, with their simulated times per token."""

    chosen: Plan
    chosen_us: float
    predicted_us: float
    best: Plan
    best_us: float
    alone_us: float

    @property
    def regret(self) -> float:
        """Share by which the choice is slower than the best; below 0 where the grid had missed
        something."""
        return self.chosen_us / self.best_us - 1


def random_profile(seed: int) -> Profile:
    """A pool of 2 to 4 models with random times, agreements, hops and sharing of devices."""
    rng = np.random.default_rng(seed)
    while True:
        try:
            profile = _draw(rng, seed)
            Oracle(profile)
        except ConfigError:
            continue
        return profile


def _draw(rng: np.random.Generator, seed: int) -> Profile:
    num_members = int(rng.integers(2, 5))
    names = [*("small", "medium", "large")[: num_members - 1], "target"]
    times = np.sort(10 ** rng.uniform(-1.7, -0.2, num_members - 1)) * 10
    quality = np.sort(rng.uniform(0.4, 0.95, num_members - 1))
    shared = rng.random() < 0.3
    members: list[dict[str, object]] = [
        {
            "name": name,
            "device": "shared" if shared and rng.random() < 0.6 else name,
            "step": {"base_ms": float(ms), "per_row_ms": float(ms * rng.uniform(0, 0.03))},
        }
        for name, ms in zip(names, [*times, 10.0], strict=True)
    ]
    members[-1]["role"] = "target"
    burstiness = float(rng.choice([0.0, 0.3, 0.6]))
    agreements = [
        {"draft": d, "verifier": "target", "agreement": q, "burstiness": burstiness}
        for d, q in zip(names, quality.tolist(), strict=False)
    ]
    agreements += [
        {
            "draft": draft,
            "verifier": verifier,
            "agreement": min(0.98, quality[i] + (1 - quality[i]) * float(rng.uniform(0, 0.6))),
            "burstiness": burstiness,
        }
        for (i, draft), (_, verifier) in combinations(enumerate(names[:-1]), 2)
    ]
    return Profile.model_validate(
        {
            "name": f"random-{seed}",
            "seed": seed,
            "members": members,
            "agreements": agreements,
            "hop_us": float(rng.choice([0.0, 50.0, 200.0, 1000.0])),
            "workload": {"num_requests": 1, "concurrency": 1},
        }
    )


def find_regret(profile: Profile) -> Regret:
    """Searches all chains of ``profile`` and compares the planner's choice."""
    oracle = Oracle(profile)
    candidate = taught_planner(profile, oracle).candidates(Regime(GREEDY))[0]
    chosen = to_plan(candidate, 0)
    alone = Plan(chain=(profile.target.name,))
    plans = list(all_plans([member.name for member in profile.members]))
    for num_tokens, num_kept in _ROUNDS:
        plans = _fastest(profile, oracle, plans, num_tokens)[:num_kept]
        if num_tokens == _ROUNDS[0][0]:
            near = [other for plan in plans[:_NUM_REFINED] for other in neighbours(plan)]
            plans = list(dict.fromkeys((*plans, *near)))
    candidates = dict.fromkeys((*plans, chosen, alone))
    final = {plan: token_us(profile, oracle, plan, _FINAL_TOKENS) for plan in candidates}
    best = min(final, key=lambda plan: final[plan])
    return Regret(chosen, final[chosen], candidate.predicted_us, best, final[best], final[alone])


def taught_planner(profile: Profile, oracle: Oracle) -> Planner:
    """The real planner, its tables filled with the truth."""
    router = new_router(profile)
    teach(router, profile, oracle, _TRUTH_TOKENS)
    devices = {member.name: profile.device_of(member) for member in profile.members}
    return Planner(tuple(devices), (), devices, router.latency, router.agreement, router.paces)


def _fastest(
    profile: Profile, oracle: Oracle, plans: Sequence[Plan], num_tokens: int
) -> list[Plan]:
    times = {plan: token_us(profile, oracle, plan, num_tokens) for plan in plans}
    return sorted(times, key=lambda plan: times[plan])


def all_plans(names: Sequence[str]) -> Iterator[Plan]:
    """Every chain of the members (fastest first, the target last), with a grid of draft lengths,
    in lock-step, with the target's upstream drafting ahead, and with all drafting ahead."""
    for count in range(len(names)):
        for between in combinations(names[:-1], count):
            chain = (*between, names[-1])
            for lengths in product(_LENGTHS, repeat=count):
                for num_ahead, ahead in _AHEADS[: 1 + 2 * count]:
                    num_lock_step = max(0, count - num_ahead)
                    aheads = (0,) * num_lock_step + (ahead,) * (count - num_lock_step)
                    yield plan_of(chain, lengths, aheads)


def plan_of(chain: Sequence[str], lengths: Sequence[int], aheads: Sequence[int]) -> Plan:
    """Blocks of ``lengths``, so many of which are drafted ahead."""
    plan = to_plan(Candidate(tuple(chain), tuple(lengths), _UNKNOWN_US, tuple(aheads)), 0)
    edges = (edge.model_copy(update={"patience_ms": _PATIENCE_MS}) for edge in plan.edges)
    return plan.model_copy(update={"edges": tuple(edges)})


def neighbours(plan: Plan) -> Iterator[Plan]:
    """The plan with one block a little shorter or longer, or with more or less taken at once or
    drafted ahead."""
    steps = (-4, -2, -1, 1, 2, 4)
    for at, name, step in product(range(len(plan.edges)), ("patience", "burst", "window"), steps):
        knobs = plan.edges[at].model_dump()
        knobs[name] += step
        if not 1 <= knobs["patience"] <= knobs["burst"] <= knobs["window"]:
            continue
        edges = (*plan.edges[:at], EdgeKnobs(**knobs), *plan.edges[at + 1 :])
        yield plan.model_copy(update={"edges": edges})
