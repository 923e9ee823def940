"""What is common to the locks: a thread that acquires, says so, renews, and begins anew when it could not."""

from __future__ import annotations

import threading
from collections.abc import Callable

from benchmarks.peers import HEARTBEAT, RETRY


class Contender:
    """A candidate on a lock."""

    def __init__(self, gained: Callable[[], None]) -> None:
        self._gained = gained
        self._leads = False

    def start(self) -> None:
        """Become a candidate."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._over,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Releases."""
        self._over.set()
        self._leads = False
        self.release()
        self._thread.join()

    def leads(self) -> bool:
        """Return a flag, which can be wrong."""
        return self._leads

    def acquire(self) -> bool:
        """Blocks until it has the lock, or gives False at once: then it is asked again after RETRY_INTERVAL."""
        raise NotImplementedError

    def renew(self) -> bool:
        """Every HEARTBEAT_INTERVAL. Gives whether the lock is still ours."""
        raise NotImplementedError

    def release(self) -> None:
        """Give the lock back."""
        raise NotImplementedError

    def _run(self, over: threading.Event) -> None:
        while not over.is_set():
            if not self.acquire():
                over.wait(RETRY)
                continue
            self._leads = True
            self._gained()
            while not over.wait(HEARTBEAT) and self.renew():
                pass
            self._leads = False
