"""``@periodic``: functions that the leader runs on a schedule. Each slot is run once, or its skip is recorded.

NOT guaranteed here:

- That a run has an end, or is done once. A process may die in the middle of it. Such a slot is in doubt, and
  ``in_doubt`` says what becomes of it.
- That a run ends with the term of its leader. A function that takes long asks ``run.raise_if_lost()``, or hands
  ``run.token`` to what it writes to.

Write jobs in a module ``leader_jobs`` of an app. It is imported where an election starts, and nowhere else.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Callable
from datetime import timedelta, tzinfo
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, overload

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import module_has_submodule

from .conf import DEFAULT_ALIAS
from .protocol.config import LONGEST_DURATION
from .protocol.jobs import Job
from .protocol.schedule import Cron, Every, Schedule
from .protocol.slots import LONGEST_NAME, InDoubt
from .runtime.runs import JobSpec, Run
from .system.log import log
from .targets import check_function

MODULE = "leader_jobs"
"""The module of an app that is searched for jobs."""
Target = TypeVar("Target")
Seconds = float | timedelta
BROKEN = "LEADER_ELECTIONS: the jobs of the app %r do not run, because its module %s cannot be imported"
TWICE = "LEADER_ELECTIONS[%r]: two jobs have the name %r, so the one of %s does not run; give it another name"


class Registered(NamedTuple):
    """A job as it was declared."""

    election: str
    spec: JobSpec
    where: str
    """Module and name of what it calls."""


class Jobs:
    """The jobs of this process, by election. Thread-safe, one object per process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Under the lock:
        self._known: dict[tuple[str, str], Registered] = {}
        self.duplicates: list[Registered] = []
        """Jobs that do not run, because another one of their election has the name."""
        self.broken: dict[str, Exception] = {}
        """What the import of the module of an app raised, by the name of the app."""
        self._discovered = False
        # Replaced as a whole.
        self._specs: dict[str, tuple[JobSpec, ...]] = {}

    def add(self, job: Registered) -> None:
        """Register a job. What is registered again, as when a module is loaded anew, replaces itself. Local."""
        key = job.election, job.spec.job.name
        with self._lock:
            known = self._known.get(key)
            if known and known.where != job.where:
                self.duplicates.append(job)
                log(logging.ERROR, TWICE, *key, job.where)
                return
            self._known[key] = job
            specs = {
                alias: [job.spec for job in self._known.values() if job.election == alias] for alias, _ in self._known
            }
            self._specs = {alias: tuple(found) for alias, found in specs.items()}

    def of(self, alias: str) -> tuple[JobSpec, ...]:
        """Return the jobs of an election. The first call imports the modules of all apps; then local. Never raises."""
        if not self._discovered:
            self.discover()
        return self._specs.get(alias, ())

    def all(self) -> list[Registered]:
        """Return all jobs, by election and name. Cost: as of ``of``."""
        self.discover()
        with self._lock:
            return [self._known[key] for key in sorted(self._known)]

    def discover(self) -> None:
        """Import the module ``leader_jobs`` of each app, once. Log what one raises, and import the others."""
        with self._lock:
            if self._discovered or not apps.ready:
                return
            self._discovered = True
            for app in apps.get_app_configs():
                if not app.module or not module_has_submodule(app.module, MODULE):
                    continue
                try:
                    import_module(f"{app.name}.{MODULE}")
                except Exception as error:  # the application that carries us goes on
                    self.broken[app.label] = error
                    log(logging.ERROR, BROKEN, app.label, f"{app.name}.{MODULE}", exc_info=error)

    def unlock(self) -> None:
        """For this package: replace the lock in a forked child, where no thread is left to release it."""
        self._lock = threading.RLock()


jobs = Jobs()
"""The jobs of this process."""


@overload
def periodic(
    every: Seconds,
    *,
    offset: Seconds = ...,
    name: str = ...,
    election: str = ...,
    grace: Seconds | None = ...,
    in_doubt: InDoubt = ...,
    max_run: Seconds | None = ...,
    jitter: Seconds = ...,
) -> Callable[[Target], Target]: ...


@overload
def periodic(
    *,
    cron: str,
    tz: str | tzinfo | None = ...,
    name: str = ...,
    election: str = ...,
    grace: Seconds | None = ...,
    in_doubt: InDoubt = ...,
    max_run: Seconds | None = ...,
    jitter: Seconds = ...,
) -> Callable[[Target], Target]: ...


def periodic(
    every: Any = None,
    *,
    offset: Any = 0.0,
    cron: Any = None,
    tz: Any = None,
    name: str = "",
    election: str = DEFAULT_ALIAS,
    grace: Any = None,
    in_doubt: InDoubt = "skip",
    max_run: Any = None,
    jitter: Any = 0.0,
) -> Callable[[Target], Target]:
    """Have the leader of ``election`` run the decorated function on a schedule.

    The function is a plain or a coroutine function with no parameter, or with one, to which a ``Run`` is passed. Or it
    is a task of ``django.tasks``, which the leader enqueues. It is returned as it is. Each run has a thread of its own.

    ``every``: the period, with ``offset`` from the beginning of 1970 (UTC). ``cron``: five fields, in the time zone
    ``tz`` (default: ``TIME_ZONE``); it needs ``pip install django-leader[cron]``. ``name``: 1 to 200 characters, unique
    in the election; by default module and name of the function. All releases of the application that run at a time
    should give a name the same schedule.
    ``grace``: how late a run may start; by default half of the period, and ten minutes at most. ``in_doubt``: what
    becomes of a slot whose run a dead or deposed leader has not ended: ``skip`` it (run at most once), or ``rerun`` it
    (at least once; three starts at most). ``max_run``: after which a run counts as hung and no longer blocks the next;
    by default never. ``jitter``: over which the starts are spread; it is not counted against ``grace``.
    Durations are seconds, or ``timedelta``.

    Local. Raise ``TypeError`` and ``ValueError`` at once for what cannot be a job, and ``ImportError`` for ``cron``
    without its extra. An election that is not declared is an error of ``manage.py check``.
    """
    schedule = _schedule(every, offset, cron, tz)
    late, hung = _duration("grace", grace), _duration("max_run", max_run)
    spread = _duration("jitter", jitter or None) or 0.0
    if in_doubt not in ("skip", "rerun"):
        raise ValueError(f"periodic: in_doubt is {in_doubt!r}; give 'skip' or 'rerun'")
    if not isinstance(election, str):
        raise TypeError(f"periodic: election is {election!r}; give the alias of an election")

    def register(target: Target) -> Target:
        where, call = _described(target), _call(target)
        named = name or where
        if not isinstance(named, str) or not 0 < len(named) <= LONGEST_NAME:
            raise ValueError(f"periodic: name is {named!r}; give a str of 1 to {LONGEST_NAME} characters")
        job = Job(named, schedule, late, in_doubt, hung or math.inf)
        jobs.add(Registered(election, JobSpec(job, call, spread), where))
        return target

    return register


def _schedule(every: Any, offset: Any, cron: Any, tz: Any) -> Schedule:
    if (every is None) == (cron is None):
        raise TypeError("periodic: give either every, a number of seconds, or cron, five fields")
    try:
        if cron is not None:
            return Cron(cron, settings.TIME_ZONE if tz is None else tz)
        return Every(every, offset)
    except (TypeError, ValueError) as error:
        raise type(error)(f"periodic: {error}") from None


def _duration(setting: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"periodic: {setting} is {value!r}; give seconds as a number, or a timedelta")
    if not 0 < seconds <= LONGEST_DURATION:
        allowed = f"more than 0 and at most {LONGEST_DURATION:.0f} seconds (a year)"
        raise ValueError(f"periodic: {setting} is {value!r}; give {allowed}")
    return float(seconds)


def _enqueues(target: Any) -> bool:
    """Return whether ``target`` is a task of ``django.tasks``, or of its backport. Local."""
    return not inspect.isroutine(target) and callable(getattr(target, "enqueue", None)) and hasattr(target, "func")


def _described(target: Any) -> str:
    function = target.func if _enqueues(target) else target
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def _call(target: Any) -> Callable[[Run], Any]:
    if _enqueues(target):
        return lambda run: target.enqueue() and None
    check_function("periodic", target)
    takes = [
        parameter
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    needed = [parameter for parameter in takes if parameter.default is parameter.empty]
    if len(needed) > 1 or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in needed):
        raise TypeError(f"periodic: {target!r} cannot be called; give it no parameter, or one, for the run")
    if needed:
        return lambda run: target(run)
    return lambda run: target()
