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
import math
from collections.abc import Callable
from datetime import timedelta, tzinfo
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction
from django.conf import settings

from .conf import DEFAULT_ALIAS
from .protocol.config import LONGEST_DURATION
from .protocol.jobs import Job
from .protocol.records import UNPRINTABLE
from .protocol.schedule import Cron, Every, Schedule
from .protocol.slots import LONGEST_NAME, InDoubt
from .registry import Registered, jobs
from .runtime.runs import JobSpec, Run
from .targets import check_function

Target = TypeVar("Target")
Seconds = float | timedelta


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
    is a task of ``django.tasks``, which the leader enqueues. It is returned as it is. Each run has a thread of its own,
    and ``JOB_THREADS`` says how many may go on at a time. Under gevent and eventlet no coroutine function is run, and
    the log says so. The process that leads runs the job, also if it is one of a command under ``@leader_required``.

    ``every``: the period, with ``offset`` from the beginning of 1970 (UTC). ``cron``: five fields, in the time zone
    ``tz`` (default: ``TIME_ZONE``); it needs ``pip install django-leader[cron]``. ``name``: 1 to 200 characters, unique
    in the election; by default module and name of the function. All releases of the application that run at a time
    should give a name the same schedule.
    ``grace``: how late a run may start; by default half of the period, and ten minutes at most. ``in_doubt``: what
    becomes of a slot whose run a dead or deposed leader has not ended: ``skip`` it (run at most once), or ``rerun`` it
    (at least once; three starts at most). ``max_run``: after which a run counts as hung and no longer blocks the next,
    nor a stop; by default never. When three runs of a job hang in a process, it starts no other. ``jitter``: over which
    the starts are spread; it is not counted against ``grace``. Durations are seconds, or ``timedelta``.

    Local. Raise ``TypeError`` and ``ValueError`` at once for what cannot be a job, and ``ImportError`` for ``cron``
    without its extra. An election that is not declared is an error of ``manage.py check``.
    """
    make = declared("periodic", every, offset, cron, tz, election, grace, in_doubt, max_run)
    spread = _duration("periodic", "jitter", jitter or None) or 0.0

    def register(target: Target) -> Target:
        call, where = _call(target), described(target)
        spec = JobSpec(make(name or where), call, spread, iscoroutinefunction(target))
        jobs.add(Registered(election, spec, where, target))
        return target

    return register


def declared(
    decorator: str,
    every: Any = None,
    offset: Any = 0.0,
    cron: Any = None,
    tz: Any = None,
    election: Any = DEFAULT_ALIAS,
    grace: Any = None,
    in_doubt: Any = "skip",
    max_run: Any = None,
) -> Callable[[Any], Job]:
    """For this package: return what makes the job of a name. Raise as ``periodic`` does. Local."""
    schedule = _schedule(decorator, every, offset, cron, tz)
    late, hung = _duration(decorator, "grace", grace), _duration(decorator, "max_run", max_run)
    if in_doubt not in ("skip", "rerun"):
        raise ValueError(f"{decorator}: in_doubt is {in_doubt!r}; give 'skip' or 'rerun'")
    if not isinstance(election, str):
        raise TypeError(f"{decorator}: election is {election!r}; give the alias of an election")

    def make(name: Any) -> Job:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or UNPRINTABLE.search(name):
            text = f"give a str of 1 to {LONGEST_NAME} printable characters"
            raise ValueError(f"{decorator}: name is {name!r}; {text}")
        if name.endswith("<lambda>"):
            raise ValueError(f"{decorator}: a lambda has no name of its own; give it one, as in name='tidy'")
        return Job(name, schedule, late, in_doubt, hung or math.inf)

    return make


def _schedule(decorator: str, every: Any, offset: Any, cron: Any, tz: Any) -> Schedule:
    if (every is None) == (cron is None):
        raise TypeError(f"{decorator}: give either every, a number of seconds, or cron, five fields")
    if cron is not None and offset:
        raise TypeError(f"{decorator}: offset belongs to every, not to cron; name the minutes in the expression")
    if every is not None and tz is not None:
        raise TypeError(f"{decorator}: tz belongs to cron, not to every, which counts from 1970 in UTC")
    try:
        if cron is not None:
            return Cron(cron, settings.TIME_ZONE if tz is None else tz)
        return Every(every, offset)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{decorator}: {error}") from None


def _duration(decorator: str, setting: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{decorator}: {setting} is {value!r}; give seconds as a number, or a timedelta")
    if not 0 < seconds <= LONGEST_DURATION:
        allowed = f"more than 0 and at most {LONGEST_DURATION:.0f} seconds (a year)"
        raise ValueError(f"{decorator}: {setting} is {value!r}; give {allowed}")
    return float(seconds)


def _enqueues(target: Any) -> bool:
    """Return whether ``target`` is a task of ``django.tasks``, or of its backport. Local."""
    return not inspect.isroutine(target) and callable(getattr(target, "enqueue", None)) and hasattr(target, "func")


def described(target: Any) -> str:
    """For this package: return module and name of what ``target`` calls. Local."""
    function = target.func if _enqueues(target) else target
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def _call(target: Any) -> Callable[[Run], Any]:
    if _enqueues(target):
        return lambda run: target.enqueue() and None
    check_function("periodic", target)
    if "." in target.__qualname__.rpartition("<locals>.")[2]:
        raise TypeError(f"periodic: {target!r} cannot be a job: it is a method, and nothing has its object")
    takes = [
        parameter
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    needed = [parameter for parameter in takes if parameter.default is parameter.empty]
    if len(needed) > 1 or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in needed):
        text = "give it no parameter, or one, for the run; write a function that calls it if it needs other arguments"
        raise TypeError(f"periodic: {target!r} cannot be called; {text}")
    if needed or [parameter.name for parameter in takes] == ["run"]:
        return lambda run: target(run)
    return lambda run: target()
