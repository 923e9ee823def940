"""python-redis-lock, which waits in BLPOP and renews by itself.

Its socket timeout is taken off: with redis-py's defaults its waiters die.
"""

from __future__ import annotations

from collections.abc import Callable

import redis
import redis_lock

from benchmarks.peers import HEARTBEAT, KEY, TTL
from benchmarks.peers.contender import Contender


class PythonRedisLock(Contender):
    """A candidate on ``redis_lock.Lock``."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        super().__init__(gained)
        self._client = redis.Redis.from_url(address, socket_timeout=None)

    def acquire(self) -> bool:
        """Blocks."""
        self._lock = redis_lock.Lock(self._client, KEY, expire=int(TTL), auto_renewal=True)
        self._lock._lock_renewal_interval = HEARTBEAT  # what its documentation tells a subclass to set
        return bool(self._lock.acquire())

    def renew(self) -> bool:
        """Do nothing: a thread of its own renews it."""
        return True

    def release(self) -> None:
        """End that thread, then release."""
        self._lock.release()

    def leads(self) -> bool:
        """Asks the server."""
        return bool(self._lock._held)
