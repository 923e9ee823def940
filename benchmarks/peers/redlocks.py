"""Two that implement the Redlock algorithm, on one server here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from benchmarks.peers import KEY, TTL
from benchmarks.peers.contender import Contender


class RedlockNg(Contender):
    """A candidate on ``redlock.Redlock``, of redlock-ng."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        from redlock import Redlock

        super().__init__(gained)
        self._redlock = Redlock([address])
        self._lock: Any = None

    def acquire(self) -> bool:
        """Blocks."""
        self._lock = self._redlock.acquire(KEY, int(TTL * 1000), blocking=True)
        return True

    def renew(self) -> bool:
        """Set the time to live anew."""
        return bool(self._redlock.extend(self._lock, int(TTL * 1000)))

    def release(self) -> None:
        """Delete the lock if it is ours."""
        self._redlock.release(self._lock)

    def leads(self) -> bool:
        """Return what the object says, which nothing but a release changes."""
        return bool(self._lock.valid)


class Pottery(Contender):
    """A candidate on ``pottery.Redlock``."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        from pottery import Redlock

        super().__init__(gained)
        client = redis.Redis.from_url(address)
        self._lock = Redlock(key=KEY, masters={client}, auto_release_time=TTL, num_extensions=10**9)

    def acquire(self) -> bool:
        """Blocks."""
        return bool(self._lock.acquire())

    def renew(self) -> bool:
        """Set the time to live anew; raise when the lock is not ours."""
        self._lock.extend()
        return True

    def release(self) -> None:
        """Delete the lock if it is ours."""
        self._lock.release()

    def leads(self) -> bool:
        """Asks the server."""
        return bool(self._lock.locked())
