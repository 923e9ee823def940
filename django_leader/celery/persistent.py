"""``PersistentScheduler``: Celery's own, whose schedule is ``beat_schedule``, and whose history a file on its host."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery import beat

from .scheduler import LeaderScheduler


class PersistentScheduler(LeaderScheduler, beat.PersistentScheduler):  # type: ignore[misc]
    """Celery's scheduler, of which only the leader's sends. Each host may have a file of its own."""

    def forget_schedule(self) -> None:
        """Close the file without saving: another process may have written to it. Local."""
        store: Any = vars(self).get("_store")
        self._store = None
        if store is not None:
            store.cache, store.writeback = {}, False
            with suppress(Exception):  # whatever a dbm raises that was changed by another process
                store.close()
