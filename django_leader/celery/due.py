"""When an entry of Celery beat is due: the instant that its schedule names after the last run. Connects to nothing.

NOT guaranteed here: anything of a schedule that does not use ``now()`` of Celery's ``BaseSchedule``. The entry is then
claimed for the instant at which it was found due.

The instant follows from the schedule and the last run alone, and not from when it is asked for. So a leader that sends
an entry, and the next one that does not know whether it was sent, name the same slot, and the same id of the task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND, MILLISECOND = timedelta(microseconds=1), timedelta(milliseconds=1)
SAME_EVENT = 60_000
"""Milliseconds: what is due so soon after the last run, by the sun, is the event of that run, computed again."""


class Due(NamedTuple):
    """What to claim. Milliseconds since the Unix epoch."""

    slot: int
    missed: int
    """The last instant that is not sent any more, because it is late by a whole period; 0 if there is none."""


def milliseconds(when: datetime) -> int:
    """Return ``when`` in whole milliseconds, rounded up. Celery takes a naive ``datetime`` for UTC. Local."""
    aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return -(-((aware - EPOCH) // MICROSECOND) // 1000)


def instant(slot: int, like: datetime) -> datetime:
    """Return the slot as a ``datetime`` in the zone of ``like``; naive, in UTC, if that is naive. Local."""
    when = EPOCH + slot * MILLISECOND
    return when.astimezone(like.tzinfo) if like.tzinfo else when.replace(tzinfo=None)


def due_after(schedule: Any, last: int) -> int | None:
    """Return when ``schedule`` is due after a run at ``last``; None if it does not say. Local."""
    when = EPOCH + last * MILLISECOND
    try:
        local = when.astimezone(schedule.tz)
        with _stopped(schedule, when):
            return milliseconds(when + schedule.remaining_estimate(local))
    except Exception:  # any that the schedule of a project raises
        return None


def next_due(schedule: Any, last: int, at: int) -> Due:
    """Return what to claim of an entry that is due at the instant ``at``, and ran last at ``last``. Local.

    That is the first instant after ``last``. If another one has come since, the entry is sent once, for ``at``, and
    what was due before is missed.
    """
    first = due_after(schedule, last)
    if first is not None and _by_the_sun(schedule) and first <= last + SAME_EVENT:
        first = due_after(schedule, last + SAME_EVENT)
    if first is None:
        return Due(max(at, last + 1), 0)
    slot = max(first, last + 1)  # a clocked schedule names the same instant for ever
    following = due_after(schedule, slot)
    if following is not None and slot < following <= at:
        return Due(at, at - 1)
    return Due(slot, 0)


def _by_the_sun(schedule: Any) -> bool:
    return any(kind.__name__ == "solar" for kind in type(schedule).__mro__)


@contextmanager
def _stopped(schedule: Any, when: datetime) -> Iterator[None]:
    """Have the clock of ``schedule`` show ``when``."""
    before = schedule.nowfun
    schedule.nowfun = lambda: when
    try:
        yield
    finally:
        schedule.nowfun = before
