"""What the target's engine tells of itself, under vLLM's names."""

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from specrouter_dist.serving.exposition import Families
from specrouter_dist.worker.status import Status


def target_families(model: str, status: Status) -> Families:
    """Of the one target, whichever replica is asked; counted since its worker started.

    Args:
        model: a label of everything.
        status: of the target's worker.
    """
    kv_share = GaugeMetricFamily(
        "vllm:kv_cache_usage_perc",
        "Share of the target's KV cache that is in use or kept for later requests; 1 is all of it",
        labels=["model_name"],
    )
    kv_share.add_metric([model], status.kv_share)
    queries, hits = (
        CounterMetricFamily(f"vllm:prefix_cache_{name}", what, labels=["model_name"])
        for name, what in (
            ("queries", "Tokens that the target's prefix cache was asked for"),
            ("hits", "Of these, those that it had"),
        )
    )
    queries.add_metric([model], status.num_prefix_queries)
    hits.add_metric([model], status.num_prefix_hits)
    return [kv_share, queries, hits]
