"""The time per token of one plan, for one request alone that goes on for long."""

from specrouter_dist.config import Plan
from specrouter_dist.simulation.oracle import Oracle
from specrouter_dist.simulation.profile import Profile, Workload
from specrouter_dist.simulation.world import World


def token_us(profile: Profile, oracle: Oracle, plan: Plan, num_tokens: int) -> float:
    """Microseconds per token behind the first, over so many tokens of one request.

    The text is the same for every plan, so plans are compared on the same luck.
    """
    workload = Workload(
        num_requests=1, concurrency=1, prompt_tokens=1, output_tokens=num_tokens + 1
    )
    changes = {"plan": plan, "workload": workload, "failures": ()}
    results = World(profile.model_copy(update=changes), oracle).run()
    return 1e3 * (1e3 * results.duration_s - results.first_token_ms_p50) / num_tokens
