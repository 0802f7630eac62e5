"""Kinds of requests that have plans of their own: the widest, and those that were seen last.

Clients name tasks as they like. So kinds are few at any time, and whatever is kept by kind goes
when its kind does; requests of a kind that has gone are again as all of their regime.
"""

from collections.abc import Iterator

from specrouter_dist.routing.traffic import ROOTS, Traffic

MOST_KINDS = 32
"""The one not seen for longest gives way."""
_FRESH_S = 10.0
"""Kinds and loads seen since then are decided about in every turn."""


class Kinds:
    """When each kind was last seen, by the router's clock, at each load (index of ``LOADS``)."""

    def __init__(self) -> None:
        self._seen_s: dict[Traffic, dict[int, float]] = {kind: {} for kind in ROOTS}
        """The most recent last."""

    def __iter__(self) -> Iterator[Traffic]:
        """The one seen last at the end."""
        return iter(self._seen_s)

    def __contains__(self, kind: object) -> bool:
        return kind in self._seen_s

    def see(self, traffic: Traffic, load: int, now_s: float) -> bool:
        """Such a request was there; whether a kind has given way to it."""
        if traffic not in ROOTS:
            self._seen_s[traffic] = self._seen_s.pop(traffic, {})
        for kind in traffic.lineage():
            if kind in self._seen_s:
                self._seen_s[kind][load] = now_s
        if len(self._seen_s) <= MOST_KINDS:
            return False
        del self._seen_s[next(kind for kind in self._seen_s if kind not in ROOTS)]
        return True

    def is_fresh(self, kind: Traffic, load: int, now_s: float) -> bool:
        """Whether such a request was there just now. The clock may be set back."""
        seen_s = self._seen_s.get(kind, {}).get(load)
        return seen_s is not None and 0.0 <= now_s - seen_s < _FRESH_S

    def narrowest(self, traffic: Traffic) -> Traffic:
        """As what such a request counts: in a task without plans of its own, as any of its
        regime. Regimes are few."""
        return traffic if traffic in self or not traffic.task else Traffic(traffic.regime)
