"""tooz, which OpenStack uses, with its Redis driver: its watchers are run every RETRY_INTERVAL, as it polls, too."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.peers import HEARTBEAT, TTL
from benchmarks.peers.contender import Contender

GROUP = b"benchmark"


class Tooz(Contender):
    """A member of a group that wants to lead it."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        from tooz import coordination

        super().__init__(gained)
        options = f"timeout={TTL:.0f}&lock_timeout={TTL:.0f}&membership_timeout={TTL:.0f}"
        self._coordinator = coordination.get_coordinator(f"{address}?{options}", secrets.token_hex(8).encode())
        self._coordinator.start()
        with contextlib.suppress(coordination.GroupAlreadyExist):
            self._coordinator.create_group(GROUP).get()
        self._coordinator.join_group(GROUP).get()
        self._coordinator.watch_elected_as_leader(GROUP, self._elected)
        self._lock: Any = None
        threading.Thread(target=self._beat, daemon=True).start()

    def acquire(self) -> bool:
        """One attempt."""
        self._won = False
        self._coordinator.run_watchers()
        return self._won

    def renew(self) -> bool:
        """Its heartbeat does it."""
        return True

    def release(self) -> None:
        """Stands down."""
        next(iter(self._coordinator._acquired_locks)).release()

    def leads(self) -> bool:
        """Asks the server."""
        return bool(next(iter(self._coordinator._acquired_locks)).is_still_owner())

    def _elected(self, event: Any) -> None:
        self._won = True

    def _beat(self) -> None:
        over = threading.Event()
        while not over.wait(HEARTBEAT):
            self._coordinator.heartbeat()
