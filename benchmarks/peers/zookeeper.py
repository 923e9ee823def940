"""kazoo's lock recipe on ZooKeeper: a session of TTL seconds that kazoo keeps alive by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kazoo.client import KazooClient

from benchmarks.peers import TTL
from benchmarks.peers.contender import Contender

PATH = "/benchmark"


class Kazoo(Contender):
    """A candidate on ``kazoo.recipe.lock.Lock``."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        super().__init__(gained)
        logging.getLogger("kazoo").setLevel(logging.CRITICAL)
        self._client = KazooClient(address, timeout=TTL)
        self._client.start(timeout=60)
        self._lock = self._client.Lock(PATH)

    def acquire(self) -> bool:
        """Blocks."""
        return bool(self._lock.acquire())

    def renew(self) -> bool:
        """Do nothing: the client keeps the session alive."""
        return True

    def release(self) -> None:
        """Delete the node."""
        self._lock.release()

    def leads(self) -> bool:
        """Two flags, which can be stale."""
        return bool(self._lock.is_acquired and self._client.connected)
