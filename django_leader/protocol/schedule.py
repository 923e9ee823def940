"""When a job is due. Pure.

NOT guaranteed here: that anything runs. ``slots`` claims the instants that this module computes.

A *slot* is one scheduled instant of one job, in whole milliseconds since the Unix epoch. It follows from the schedule
alone. So all processes that have the same schedule agree on the slots without a word between them, whatever their
clocks show and whenever they started.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Protocol

from .config import LONGEST_DURATION

SHORTEST_PERIOD = 1.0
"""Seconds. The server's clock may be read a second late (``slots.AHEAD``), so shorter periods have no slots of their
own."""
CRON_FIELDS = 5
LONGEST_LINE = 200
"""Characters of a cron expression, at most."""
REPEATED_HOURS = timedelta(hours=3)
"""The longest time by which a clock was ever set back for daylight saving is shorter than this."""


class Schedule(Protocol):
    """The slots of a job. Two schedules with the same ``text`` have the same slots."""

    text: str
    """The schedule as a person reads it."""

    def next(self, after: int) -> int:
        """Return the first slot after the instant ``after``. Local."""

    def latest(self, at: int) -> int:
        """Return the last slot up to and including the instant ``at``. Local."""


class Every:
    """The multiples of ``period`` seconds since the Unix epoch, each ``offset`` seconds later.

    Both are a number or a ``timedelta``. Raise ``TypeError`` for another kind, and ``ValueError`` for a period below a
    second, or above a year, and for an offset that is negative, or not shorter than the period.
    """

    def __init__(self, period: float | timedelta, offset: float | timedelta = 0.0) -> None:
        seconds, later = _seconds("every", period), _seconds("offset", offset)
        if not SHORTEST_PERIOD <= seconds <= LONGEST_DURATION:
            allowed = f"from {SHORTEST_PERIOD:g} to {LONGEST_DURATION:.0f} (a year)"
            raise ValueError(f"every is {period!r}; give a number of seconds {allowed}, or a timedelta")
        if not 0 <= later < seconds:
            raise ValueError(f"offset is {offset!r}; give a number of seconds from 0 to below every ({seconds:g})")
        self._period, self._offset = round(seconds * 1000), round(later * 1000)
        self.text = f"every {seconds:.15g} s" + (f", {later:.15g} s later" if later else "")

    def next(self, after: int) -> int:
        """Return the first slot after ``after``. Local."""
        return self.latest(after) + self._period

    def latest(self, at: int) -> int:
        """Return the last slot up to ``at``. Local."""
        return (at - self._offset) // self._period * self._period + self._offset


class Cron:
    """The instants that a cron expression of five fields names, in the local time of a zone.

    ``line``: minute, hour, day of the month, month, day of the week. ``zone``: the name of a time zone, or a
    ``tzinfo``. Where daylight saving begins, a time that is skipped is due when the gap ends. Where it ends, a time
    that comes twice is due the first time. An expression whose minute or hour begins with ``*`` counts real time, so it
    is due in both hours. That is what Debian's cron does. On Lord Howe Island, where the clocks are set by half an
    hour, such an expression may miss a slot within some hours of the change.

    It needs the package ``cronsim``: ``pip install django-leader[cron]``. Raise ``ImportError`` without it,
    ``TypeError`` for values of another kind, and ``ValueError`` for an expression that cannot be read, has no slot in
    50 years, or names a zone that this machine does not know.
    """

    def __init__(self, line: str, zone: str | tzinfo = timezone.utc) -> None:
        if not isinstance(line, str):
            raise TypeError(f"cron is {line!r}; give a str, for example '0 3 * * *'")
        fields = line.split() if len(line) <= LONGEST_LINE else []
        if len(fields) != CRON_FIELDS:
            raise ValueError(
                f"cron is {line[:LONGEST_LINE]!r}; give five fields: minute, hour, day of the month, month, day of the "
                "week, for example '0 3 * * *'"
            )
        try:
            import cronsim
        except ImportError as error:
            raise ImportError("cron expressions need cronsim: pip install 'django-leader[cron]'") from error

        self._make = cronsim.CronSim
        self._line, self._zone = " ".join(fields), _zone(zone)
        self.text = f"cron {self._line}, {zone}"
        try:
            self.latest(self.next(0))
        except cronsim.CronSimError as error:
            raise ValueError(f"cron is {line!r}, which cannot be read ({error})") from None
        except (StopIteration, OverflowError):
            raise ValueError(f"cron is {line!r}, which names a day that never comes") from None

    def next(self, after: int) -> int:
        """Return the first slot after ``after``. Local: microseconds, or milliseconds for a rare day."""
        # The search is by local time, which comes twice where daylight saving ends: go on until it is later.
        return next(slot for slot in map(_milliseconds, self._make(self._line, self._local(after))) if slot > after)

    def latest(self, at: int) -> int:
        """Return the last slot up to ``at``. Local, as ``next``."""
        begin = self._local(at) + REPEATED_HOURS + timedelta(seconds=1)
        return next(slot for slot in map(_milliseconds, self._make(self._line, begin, reverse=True)) if slot <= at)

    def _local(self, at: int) -> datetime:
        return datetime.fromtimestamp(at // 1000, self._zone)


def _milliseconds(when: datetime) -> int:
    return round(when.timestamp() * 1000)


def _zone(zone: Any) -> tzinfo:
    if isinstance(zone, tzinfo):
        return zone
    if not isinstance(zone, str):
        raise TypeError(f"tz is {zone!r}; give the name of a time zone, for example 'Europe/Berlin'")
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # most processes have no job with a cron expression

    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = "this machine does not know; give a name such as 'Europe/Berlin', or pip install tzdata"
        raise ValueError(f"tz is {zone!r}, which {known}") from None


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; give seconds as a number, or a timedelta")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; give a finite number of seconds")
    return float(value)
