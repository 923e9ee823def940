"""``DatabaseScheduler``: that of django-celery-beat, whose schedule and history are tables of the database."""

from __future__ import annotations

from django_celery_beat import schedulers

from .scheduler import LeaderScheduler


class DatabaseScheduler(LeaderScheduler, schedulers.DatabaseScheduler):  # type: ignore[misc]
    """The scheduler of django-celery-beat, of which only the leader's sends."""

    def forget_schedule(self) -> None:
        """Have the next look read the database, and save nothing of what this process believed. Local."""
        self._dirty.clear()
        self._schedule, self._last_timestamp, self._initial_read = None, None, True

    def changed(self, entry: object) -> None:
        """Have an entry whose last run was changed be saved."""
        self._dirty.add(entry.name)  # type: ignore[attr-defined]
