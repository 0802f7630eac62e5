"""What actors publish through Ray's metrics, at the pace at which the router asks workers."""

from collections.abc import Iterable, Mapping

from ray.util import metrics

from specrouter_dist.actors import metric_names as names
from specrouter_dist.actors.metric_names import Metric
from specrouter_dist.routing.observations import Observations
from specrouter_dist.worker.status import Status


class _Published:
    """Some metrics of this process.

    Args:
        wanted: which.
        tags: what is the same for all of them.
    """

    def __init__(self, wanted: Iterable[Metric], tags: Mapping[str, str]) -> None:
        self._tags = dict(tags)
        self._made = {
            metric: (metrics.Counter if metric.is_counter else metrics.Gauge)(
                metric.name, metric.help, metric.tags
            )
            for metric in wanted
        }

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        """The value of a gauge now."""
        self._made[metric].set(value, {**self._tags, **tags})

    def add(self, metric: Metric, value: float, **tags: str) -> None:
        """So much more of a counter, which takes nothing but what is more."""
        if value > 0:
            self._made[metric].inc(value, {**self._tags, **tags})


class WorkerMetrics:
    """A worker's.

    Args:
        pool: name of its pool.
        member: name of the worker's member.
    """

    def __init__(self, pool: str, member: str) -> None:
        own = {"pool": pool, "member": member}
        self._own = _Published((m for m in names.WORKER_METRICS if "member" in m.tags), own)
        self._pairs = _Published(
            (m for m in names.WORKER_METRICS if "draft" in m.tags), {"pool": pool}
        )
        self._last = Status()

    def publish(self, status: Status, observations: Observations) -> None:
        """How the worker is, and what it has measured since the last time."""
        own = self._own
        own.set(names.SESSIONS, status.num_sessions)
        own.set(names.KV_SHARE, status.kv_share)
        own.set(names.RUNNING, status.num_running)
        own.set(names.WAITING, status.num_waiting)
        last, self._last = self._last, status
        own.add(names.TOKENS, status.num_tokens - last.num_tokens)
        own.add(names.PREFIX_QUERIES, status.num_prefix_queries - last.num_prefix_queries)
        own.add(names.PREFIX_HITS, status.num_prefix_hits - last.num_prefix_hits)
        own.add(names.TICKS, sum(times.count for times in observations.forwards.values()))
        own.add(names.TICK_SECONDS, sum(t.total_us for t in observations.forwards.values()) / 1e6)
        for pair, survival in observations.pairs.items():
            tags = {"draft": pair.draft, "verifier": pair.verifier}
            self._pairs.add(names.ROUNDS, survival.num_blocks, **tags)
            self._pairs.add(names.PROPOSED, sum(survival.reached), **tags)
            self._pairs.add(names.ACCEPTED, sum(survival.accepted), **tags)
        for wait, times in observations.waits.items():
            tags = {"draft": wait.draft, "verifier": wait.verifier}
            self._pairs.add(names.WAIT_SECONDS, times.total_us / 1e6, **tags)


class RouterMetrics:
    """The router's.

    Args:
        pool: name of its pool.
    """

    def __init__(self, pool: str) -> None:
        self._published = _Published(names.ROUTER_METRICS, {"pool": pool})
        self._cpu_s: dict[str, float] = {}

    def publish(
        self,
        *,
        plan_number: int,
        num_refused: int,
        cpu_s: Mapping[str, float],
        reachable: Mapping[str, bool],
    ) -> None:
        """How the router is; ``cpu_s`` by what it was spent on, since it started."""
        published = self._published
        published.set(names.PLAN_NUMBER, plan_number)
        published.set(names.REFUSED, num_refused)
        for on, spent_s in cpu_s.items():
            published.add(names.ROUTER_CPU, spent_s - self._cpu_s.get(on, 0.0), on=on)
        self._cpu_s = dict(cpu_s)
        for member, is_reachable in reachable.items():
            published.set(names.REACHABLE, is_reachable, member=member)
