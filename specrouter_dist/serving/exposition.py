"""Families of metrics of several processes as one text in Prometheus' format."""

from collections.abc import Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Families = list[Metric]
"""What a registry collects: plain values, which may travel."""


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(shares: Iterable[tuple[str, Sequence[Metric]]]) -> Families:
    """The families of all replicas, each sample with its replica's name as label ``replica``.

    Args:
        shares: name and families of each replica.
    """
    found: dict[str, Metric] = {}
    for replica, families in shares:
        for family in families:
            if family.name not in found:
                found[family.name] = Metric(family.name, family.documentation, family.type)
            found[family.name].samples += [
                sample._replace(labels={**sample.labels, "replica": replica})
                for sample in family.samples
            ]
    return list(found.values())


def to_text(families: Iterable[Metric]) -> bytes:
    """What ``/metrics`` answers."""
    return generate_latest(_Collected(families))
