"""``leading``: Huey's periodic tasks, put into the queue by one consumer.

NOT guaranteed here:

- That each minute of a schedule is enqueued. Of the minutes of a task that no leader has claimed, the next claim takes
  the last, up to ten minutes late. The others are recorded as missed, and logged. So a task that is due each minute may
  lose one at a change of leader, because the next leader asks at another second. It loses one without a change, too, if
  two turns of a scheduler are just before a minute and just after the next one.
- That a minute whose record says ``ok`` was enqueued. Huey asks all periodic tasks first, and then enqueues those that
  are due. The minutes that were claimed in a turn are lost if the process is killed before its end, or if a schedule
  without ``leading`` raises, which ends Huey's scheduler. A minute is lost, too, if Huey cannot reach its queue.
- That a task runs once. Huey decides what becomes of a message, and a task may be retried.

Huey's scheduler asks each periodic task once a minute whether it is due, in each consumer at another second. If only
the leader said yes, a change of leader could enqueue a minute twice or not at all. So the leader claims the minute
(``once``). It asks for the last minute that was due, so the next leader makes up for the last one that its predecessor
has not asked for. The clock of the Redis server says which minute it is.

A consumer's scheduler that asks is a candidate from then on. It stops when its thread has ended, because a consumer
that shuts down may work on its tasks for long, and enqueues nothing meanwhile. Other code that reads the periodic tasks
gets the answer False, because Huey would enqueue nothing of what that code had claimed.

Huey is not imported here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from types import FrameType
from typing import TYPE_CHECKING, cast

from django.core.exceptions import ImproperlyConfigured

from .conf import COMMAND_PREFIX
from .handler import elections, is_leader
from .once import Claims
from .overrides import overrides
from .protocol.jobs import LONGEST_GRACE, Job
from .protocol.records import NotRun
from .protocol.slots import LONGEST_NAME
from .runtime.jobs import NOT_RUN
from .runtime.runs import instant
from .startup.autostart import is_test_process
from .system import clock
from .system.log import log

if TYPE_CHECKING:
    from .runtime.election import LeaderElection

RUN_HUEY = f"{COMMAND_PREFIX}run_huey"
"""The election of the consumers. It has the settings of ``default``, and keys of its own."""
MINUTE = 60_000
"""Milliseconds. Tests make it shorter."""
BACK = 31 * 24 * 60
"""Minutes for which the slot before a slot is searched. What a rarer task has missed is not told."""
WINDOW = 60
"""Minutes for which a slot that was not claimed is looked for. Redis decides by the grace whether it is too late."""
TASK, SCHEDULER = "validate_datetime", "enqueue_periodic_tasks"
"""The methods by which Huey's tasks, and the schedulers of its consumers, are known."""
MOST_FRAMES = 16
"""From the schedule to its task and to the scheduler. There are five in Huey, and functions around these have more."""
NO_TASK = (
    "LEADER_ELECTIONS[%r]: a periodic task is not put into the queue, because leading() was not called by a task of "
    "Huey, so its name is not known. Use it as in @db_periodic_task(leading(crontab(minute='0')))"
)
OUTSIDE = (
    "LEADER_ELECTIONS[%r]: the scheduler of a Huey consumer has not called leading(), so no minute is claimed, and the "
    "answer is False. This process becomes no candidate by it. A scheduler of your own must be a subclass of "
    "huey.consumer.Scheduler"
)
RAISED = "%s: the job %r was not started, because its schedule, the function in leading(), raised an exception"
FAULT = (
    "LEADER_ELECTIONS[%r]: this process puts no periodic task of Huey into the queue, because it cannot be a candidate"
)

Validate = Callable[[datetime], bool]


def leading(validate: Validate, *, election: str = RUN_HUEY) -> Validate:
    """Return a function for Huey's ``periodic_task`` that is true once for each minute of a schedule, in the leader.

    ``validate``: what Huey would be given otherwise, such as ``crontab(minute="0")``. It must depend on the minute
    alone, because it is asked for other minutes, too. A minute is enqueued at most once by all consumers that share the
    ``election``, and ten minutes late at most. The record of its slots has the name of Huey's task.

    ``election``: an alias. The election of a command, such as the default, is started in each scheduler that asks. In
    any other one the process must be a candidate; if it is none, the log says so once.

    Only the scheduler of a Huey consumer is answered. Whatever else asks gets False, and the log says so once.

    Local, and reads no setting. The returned function is local where the process does not lead. In the leader it takes
    a few round trips on a new connection if a minute is due that it has not claimed. Before that it searches the last
    month for the minute before, which may take some tenths of a second if the task is rarely due. It raises nothing:
    what ``validate`` raises, and what keeps it from asking, is logged, and the answer is False. In a test it claims
    nothing, ``testing.leading`` says who leads, any code may ask, and it raises what ``validate`` raises.

    Raise ``TypeError`` at once if ``validate`` cannot be called or ``election`` is no ``str``.
    """
    if not callable(validate):
        raise TypeError(f"leading: {validate!r} cannot be called; give a schedule of Huey, such as crontab(minute='0')")
    if not isinstance(election, str):
        raise TypeError(f"leading: election is {election!r}; give the alias of an election")
    return _Leading(validate, election)


class _ScheduleRaised(Exception):
    """The application's schedule has raised the cause of this."""


class Minutes:
    """The minutes that ``validate`` names, as slots. Huey's ``utc`` says what its times are: UTC, or local time."""

    text = "the minutes of a schedule of Huey"

    def __init__(self, validate: Validate) -> None:
        self._validate = validate
        self.local = False

    def tell(self, at: datetime, now: float) -> None:
        """Tell by the naive time ``at``, which Huey has just read, whether its times are local. Local.

        ``now``: seconds since the Unix epoch by the same clock.
        """
        off = min(abs(at.replace(fold=fold).timestamp() - now) for fold in (0, 1))
        self.local = off < abs(at.replace(tzinfo=timezone.utc).timestamp() - now)

    def next(self, after: int) -> int:
        """Return the first slot after ``after``, or an earlier instant if there is none for some minutes. Local.

        If ``validate`` raises, return the next minute: this is asked when a slot was granted, which must not be lost.
        """
        first = after // MINUTE + 1
        try:
            return next((one for one in range(first, first + WINDOW) if self._due(one)), first + WINDOW) * MINUTE
        except _ScheduleRaised:
            return first * MINUTE

    def latest(self, at: int) -> int:
        """Return the last slot up to ``at``, or one at the beginning of 1970 if there is none for a month. Local."""
        last = at // MINUTE
        found = next((one for one in range(last, max(last - BACK, 1), -1) if self._due(one)), min(last, 1))
        return found * MINUTE

    def recent(self, at: int) -> int | None:
        """Return the last slot up to ``at`` if it is not too old to be claimed or to be told of. Local."""
        last = at // MINUTE
        return next((one * MINUTE for one in range(last, last - WINDOW, -1) if self._due(one)), None)

    def _due(self, minute: int) -> bool:
        at = datetime.fromtimestamp(minute * MINUTE / 1000, None if self.local else timezone.utc)
        try:
            return bool(self._validate(at.replace(tzinfo=None)))
        except Exception as error:
            raise _ScheduleRaised from error


class _Leading:
    """What ``leading`` returns. Any thread."""

    def __init__(self, validate: Validate, alias: str) -> None:
        self._validate, self._alias = validate, alias
        self._lock = threading.Lock()
        # Under the lock:
        self._claims: dict[str, tuple[Minutes, Claims]] = {}
        """By the name of the task: one schedule may serve several."""

    def __call__(self, at: datetime) -> bool:
        frame = sys._getframe(1)
        try:
            overridden = elections[self._alias].overridden
            if not overridden and _caller(frame, SCHEDULER) is None:
                if not is_test_process() and _first(self._alias, "outside"):
                    log(logging.WARNING, OUTSIDE, self._alias)
                return False
            if self._alias.startswith(COMMAND_PREFIX):
                _candidates.enter(self._alias)
            if not is_leader(self._alias):
                return False
        except Exception:
            if _first(self._alias, "fault"):
                log(logging.ERROR, FAULT, self._alias, exc_info=True)
            return False
        if overridden:
            return bool(self._validate(at)) and overrides.slots.verdict in ("", "run")
        task = _caller(frame, TASK)
        if task is None:
            if _first(self._alias, "no task"):
                log(logging.ERROR, NO_TASK, self._alias)
            return False
        name = f"{type(task).__module__}.{type(task).__name__}"[:LONGEST_NAME]
        with self._lock:
            if name not in self._claims:
                minutes = Minutes(self._validate)
                self._claims[name] = minutes, Claims(self._alias, Job(name, minutes, LONGEST_GRACE))
            minutes, claims = self._claims[name]
        minutes.tell(at, time.time())
        return self._claim(name, minutes, claims)

    def _claim(self, name: str, minutes: Minutes, claims: Claims) -> bool:
        election = elections[self._alias]
        granted = False
        try:
            slot = self._last(election, minutes)
            if slot is None:
                return False
            begun = claims.begin()
            if not isinstance(begun, NotRun):
                granted = True
                begun(None)  # before Huey enqueues it, so that nobody does it a second time
            elif begun.reason in NOT_RUN:
                level, why = NOT_RUN[begun.reason]
                log(level, "%s: the slot %s of the job %r %s", election.label, instant(slot), name, why)
        except _ScheduleRaised as raised:  # or the scheduler of Huey would end, and lose what it has claimed
            log(logging.ERROR, RAISED, election.label, name, exc_info=raised.__cause__)
        except Exception:
            text = "%s: the job %r was not started, because of a fault of this package"
            log(logging.ERROR, text, election.label, name, exc_info=True)
        return granted

    @staticmethod
    def _last(election: LeaderElection, minutes: Minutes) -> int | None:
        """Return the last minute that was due by the server's clock, if it is not too old. Local."""
        access = election.access()
        seen = access and access.shared.state.watch.observation
        return minutes.recent(round((clock.now() + seen.offset_min) * 1000)) if seen else None


def _caller(frame: FrameType | None, method: str) -> object | None:
    """Return the nearest object that calls, of a class that has ``method``. Local.

    Huey passes no task to a schedule, and makes the task after its schedule. So only a frame of a caller knows it. The
    class is asked, because an object may do anything when it is asked, as a lazy one of Django does.
    """
    for _ in range(MOST_FRAMES):
        found = frame and frame.f_locals.get("self")
        if found is not None and hasattr(type(found), method):
            return cast(object, found)
        frame = frame and frame.f_back
    return None


class _Candidates:
    """The elections that schedulers of this process have started. Any thread."""

    def __init__(self) -> None:
        # Only set, atomically. A forked child begins anew, although its thread is the object of the parent's.
        self._threads: dict[str, tuple[int, threading.Thread]] = {}

    def enter(self, alias: str) -> None:
        """Make this process a candidate until the calling thread ends. Local. Raise as ``start`` does."""
        here = os.getpid(), threading.current_thread()
        election = elections[alias]
        if self._threads.get(alias) == here or election.overridden or is_test_process():
            return
        with suppress(ImproperlyConfigured):  # is_leader() logs it
            election.start()
            self._threads[alias] = here
            if here[1] is not threading.main_thread():
                threading.Thread(target=self._leave, args=(alias, here), name=f"{alias}: the end", daemon=True).start()

    def _leave(self, alias: str, here: tuple[int, threading.Thread]) -> None:
        _, scheduler = here
        with suppress(AssertionError, RuntimeError):  # no thread of Python's own, as in a greenlet
            scheduler.join()
        if not scheduler.is_alive() and self._threads.get(alias) == here:
            elections[alias].stop()


_candidates = _Candidates()
_told: set[tuple[str, str]] = set()


def _first(alias: str, what: str) -> bool:
    """Return whether this process has not logged it before, and note that it has now. Local."""
    first = (alias, what) not in _told
    _told.add((alias, what))
    return first
