"""redis-py's own ``Lock`` with a thread that renews it, polling as it does by default, or more rarely."""

from __future__ import annotations

from collections.abc import Callable

import redis

from benchmarks.peers import KEY, TTL
from benchmarks.peers.contender import Contender


class RedisPyLock(Contender):
    """A candidate on ``redis.lock.Lock``."""

    def __init__(self, address: str, gained: Callable[[], None], *, sleep: float = 0.1) -> None:
        super().__init__(gained)
        self._lock = redis.Redis.from_url(address).lock(KEY, timeout=TTL, sleep=sleep, thread_local=False)

    def acquire(self) -> bool:
        """Blocks."""
        return bool(self._lock.acquire())

    def renew(self) -> bool:
        """Set the time to live anew."""
        return bool(self._lock.reacquire())

    def release(self) -> None:
        """Delete the lock if it is ours."""
        self._lock.release()

    def leads(self) -> bool:
        """Asks the server."""
        return bool(self._lock.owned())
