"""What a running router knows, read from the snapshot that it keeps, to weigh plans by."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path

import msgpack

from specrouter_dist.actors.memory import WRITE_EVERY_S
from specrouter_dist.actors.state_file import STATE_DIR_VARIABLE
from specrouter_dist.config import EdgeKnobs, Plan
from specrouter_dist.pools.loading import Pool, lookup_members, model_members
from specrouter_dist.routing.costs import Regime
from specrouter_dist.routing.planner import Planner
from specrouter_dist.routing.router import Router
from specrouter_dist.routing.snapshot import restore
from specrouter_dist.routing.traffic import GREEDY, Traffic
from specrouter_dist.serving.results import PlanUse

AS_GOOD = 1.03
"""Plans no slower than this times the best count as as good."""
_WRITTEN_WITHIN_S = 4 * WRITE_EVERY_S


@contextmanager
def own_state() -> Iterator[Path]:
    """A folder for the snapshots of routers that start inside; nobody else's are found there."""
    with tempfile.TemporaryDirectory() as folder:
        before = environ.get(STATE_DIR_VARIABLE)
        environ[STATE_DIR_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del environ[STATE_DIR_VARIABLE]
            else:
                environ[STATE_DIR_VARIABLE] = before


def plan_of(use: PlanUse) -> Plan:
    """The plan that a request says it went with."""
    chain, *knobs = use.plan
    edges = tuple(
        EdgeKnobs(
            patience=length,
            burst=burst,
            window=burst + (length + 1) * ahead,
            match_tokens=match_tokens,
        )
        for length, burst, ahead, match_tokens in zip(*knobs, strict=True)
    )
    return Plan(chain=chain, edges=edges)


def snapshot_file(folder: Path) -> Path:
    """The only one in the folder."""
    (file,) = folder.glob("router-*.msgpack")
    return file


def newer_snapshot(folder: Path, since: float) -> bytes:
    """The first that is written after ``since`` (time of day); its router must be learning.

    Raises:
        TimeoutError: none is written.
    """
    end = time.time() + _WRITTEN_WITHIN_S
    while time.time() < end:
        if any(file.stat().st_mtime > since for file in folder.glob("router-*.msgpack")):
            return snapshot_file(folder).read_bytes()
        time.sleep(0.2)
    raise TimeoutError(f"no snapshot in {folder} within {_WRITTEN_WITHIN_S:.0f} s")


@dataclass(frozen=True, slots=True)
class Known:
    """What a router knew when its snapshot was written, for requests that run alone."""

    planner: Planner
    traffic: Traffic

    @classmethod
    def read(cls, pool: Pool, snapshot: bytes, traffic: Traffic = GREEDY) -> "Known":
        """With the times, whoever's workers they are of."""
        models = [member.name for member in model_members(pool)]
        lookups = {member.name: member for member in lookup_members(pool)}
        devices = {name: name for name in models}
        router = Router(models, lookups, devices, hop_us=0.0)
        raw = msgpack.unpackb(snapshot)
        hashes = {"pool_hash": raw["pool_hash"], "life": raw["life"]}
        restore(router, snapshot, **hashes, now_s=time.time())
        return cls(
            Planner(
                tuple(models),
                tuple(lookups),
                devices,
                router.latency,
                router.agreement,
                router.paces,
            ),
            traffic,
        )

    def token_us(self, plan: Plan) -> float:
        """Predicted time per token."""
        prediction = self.planner.predict(plan, Regime(self.traffic))
        assert prediction is not None, "a pool that runs has been profiled"
        return prediction.predicted_us

    def is_as_good(self, plan: Plan, best: Plan) -> bool:
        """Whether ``plan`` is predicted to be about as fast as ``best``."""
        return self.token_us(plan) <= AS_GOOD * self.token_us(best)
