"""For the tests of a project that uses this package: who leads, without Redis and without threads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .conf import DEFAULT_ALIAS
from .overrides import SlotOverride, overrides
from .registry import jobs as registry
from .runtime.grant import NO_GRANT, Grant, new_cell
from .runtime.runs import Previous, Run, instant
from .runtime.term import Term
from .scopes import Scope
from .settings import read

TEST_TOKEN = 1


def leading(using: str = DEFAULT_ALIAS, *, token: int = TEST_TOKEN) -> Scope:
    """Have this process lead the election ``using``, with the fencing token ``token``.

    The returned object is a decorator of functions, coroutine functions and classes of tests, and a context manager.
    The newest override that has not ended counts, in all threads of this process, and through ``override_settings``.
    No callback is called, no signal is sent, and no election starts. A ``@leader_required`` command runs, if its own
    election is overridden: ``leading("command:<name>")``. A forked child does not lead. Local.

    Raise ``TypeError`` or ``ValueError`` at once for invalid arguments, and ``ImproperlyConfigured`` on entering when
    the settings have no election ``using``.
    """
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"leading: token is {token!r}; give an int")
    if token < 1:
        raise ValueError(f"leading: token is {token!r}; tokens begin with 1")
    # A cell for each use, because a fork wipes it, and test runners fork after they have imported the tests.
    return _override("leading", using, lambda: Grant(token, new_cell(math.inf)))


def following(using: str = DEFAULT_ALIAS) -> Scope:
    """Have this process not lead the election ``using``, and a ``@leader_required`` command not run.

    Use it as ``leading``. Local. Raise ``TypeError`` at once if ``using`` is no ``str``, and ``ImproperlyConfigured``
    on entering when the settings have no election ``using``.
    """
    return _override("following", using, lambda: NO_GRANT)


def slots(at: datetime | None = None, *, verdict: str = "") -> Scope:
    """Decide what becomes of the calls of ``@once_per_slot`` functions in this process while ``leading()`` counts.

    With ``election=None`` a function needs no ``leading()``, and a slot runs once within one use of ``slots()``.

    ``at``: an aware time in place of the clock, from which the slot follows. A slot runs once within one use of
    ``leading()``. ``verdict``: what each claim is answered, whatever the slot: ``run``, or the reason of a ``NotRun``.
    Use it as ``leading``. Local. Raise ``TypeError`` at once for a time that is not aware, or is none.
    """
    if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
        raise TypeError(f"slots: at is {at!r}; give an aware datetime")

    def begin() -> Callable[[], None]:
        override = SlotOverride(at.timestamp() if at else None, verdict)
        overrides.begin_slots(override)
        return lambda: overrides.end_slots(override)

    return Scope("slots", begin)


def run_job(
    job: str | Callable[..., Any],
    *,
    using: str = DEFAULT_ALIAS,
    at: datetime | None = None,
    attempt: int = 1,
    previous: Previous | None = None,
    token: int = TEST_TOKEN,
) -> Any:
    """Call a ``@periodic`` function as the leader does, in this thread, and return what it returns.

    ``job``: the function, or the name of the job. ``at``: the slot, by default the last one. The term of the run, which
    has this ``token``, lasts. No slot is claimed. The coroutine of a coroutine function is returned, to be awaited.
    Raise ``LookupError`` if there is no such job in the election ``using``, and what the function raises.
    """
    spec = registry.find(using, job)
    slot = at or instant(spec.job.schedule.latest(time.time_ns() // 1_000_000))
    grant = Grant(token, new_cell(math.inf))
    term = Term(f"LEADER_ELECTIONS[{using!r}]", grant, lambda: grant)
    return spec.call(Run(spec.job.name, slot, attempt, previous, term))


def real_elections() -> Scope:
    """Let ``@leader_required`` commands campaign on the Redis of the settings, which they refuse to do in tests.

    Use it as ``leading``. An override of a command's election still counts within it. Local.
    """

    def begin() -> Callable[[], None]:
        overrides.begin_real_elections()
        return overrides.end_real_elections

    return Scope("real_elections", begin)


def _override(name: str, using: str, grant: Callable[[], Grant]) -> Scope:
    if callable(using):
        raise TypeError(f"{name}: {using!r} is no alias of an election; write @{name}(), with parentheses")
    if not isinstance(using, str):
        raise TypeError(f"{name}: using is {using!r}; give the alias of an election")

    def begin() -> Callable[[], None]:
        override = overrides.begin(using, grant())
        return lambda: overrides.end(override)

    return Scope(name, begin, check=lambda: read(using))
