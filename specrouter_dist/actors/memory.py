"""What outlives a router's process: read when it starts, written while it learns."""

import asyncio
import hashlib
import logging
import time

from specrouter_dist.actors.state_file import StateFile
from specrouter_dist.errors import SnapshotError
from specrouter_dist.routing import snapshot
from specrouter_dist.routing.router import Router

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 5.0
"""A router that dies forgets at most about this much."""


class Memory:
    """Snapshots of one router.

    Args:
        router: what is remembered; it is told what an earlier one knew at once.
        file: where the snapshots are.
        pool_hash: of the pool's configuration.
        secret: of the running pool's links; tells its workers from those of other runs.
    """

    def __init__(self, router: Router, file: StateFile, pool_hash: str, secret: bytes) -> None:
        self.has_news = False
        """Whether the router has learnt what is not in the file."""
        self._router = router
        self._file = file
        self._pool_hash = pool_hash
        # A name that the secret cannot be told from.
        self._life = hashlib.sha256(b"life of a pool" + secret).hexdigest()
        self._writing = asyncio.Lock()

    def recall(self) -> bool:
        """Gives the router what the file holds for it; whether there was any."""
        try:
            data = self._file.read()
            if data is None:
                return False
            snapshot.restore(
                self._router,
                data,
                pool_hash=self._pool_hash,
                life=self._life,
                now_s=time.time(),
            )
        except (OSError, SnapshotError) as problem:
            logger.warning("%s: %s; the router starts without it", self._file, problem)
            return False
        return True

    async def save(self) -> None:
        """Writes what is new, if there is any. The disk is waited for in a thread."""
        async with self._writing:
            if not self.has_news:
                return
            self.has_news = False
            try:
                data = snapshot.dump(
                    self._router, pool_hash=self._pool_hash, life=self._life, now_s=time.time()
                )
                await asyncio.to_thread(self._file.write, data)
            except (OSError, SnapshotError) as problem:
                logger.warning("%s: not written: %s", self._file, problem)

    async def save_for_ever(self) -> None:
        """Every few seconds."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.save()
