"""``@once_per_slot``: a function that some scheduler calls in every process, and that runs once in each slot.

NOT guaranteed here: that a slot is run, because nobody may call for it; otherwise what ``periodic`` does not guarantee.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Coroutine
from datetime import tzinfo
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from asgiref.sync import iscoroutinefunction, sync_to_async

from .conf import DEFAULT_ALIAS
from .handler import elections, is_leader
from .jobs import Seconds, declared, described
from .overrides import overrides
from .protocol.jobs import Job
from .protocol.records import NotRun
from .protocol.slots import End, InDoubt, Outcome
from .registry import Registered, jobs
from .runtime.leaderless import LeaderlessClaimer
from .runtime.once import Claimer
from .runtime.runs import JobSpec, text_of
from .system import clock
from .targets import check_function

P = ParamSpec("P")
Result = TypeVar("Result")


class OncePerSlot(Protocol):
    """What ``once_per_slot`` returns: a decorator of functions and of coroutine functions."""

    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, Result]], /
    ) -> Callable[P, Coroutine[Any, Any, Result | NotRun]]: ...

    @overload
    def __call__(self, target: Callable[P, Result], /) -> Callable[P, Result | NotRun]: ...


@overload
def once_per_slot(
    every: Seconds,
    *,
    offset: Seconds = ...,
    name: str = ...,
    election: str | None = ...,
    using: str = ...,
    grace: Seconds | None = ...,
    in_doubt: InDoubt = ...,
    max_run: Seconds | None = ...,
) -> OncePerSlot: ...


@overload
def once_per_slot(
    *,
    cron: str,
    tz: str | tzinfo | None = ...,
    name: str = ...,
    election: str | None = ...,
    using: str = ...,
    grace: Seconds | None = ...,
    in_doubt: InDoubt = ...,
    max_run: Seconds | None = ...,
) -> OncePerSlot: ...


def once_per_slot(
    every: Any = None,
    *,
    election: str | None = DEFAULT_ALIAS,
    using: str = DEFAULT_ALIAS,
    name: str = "",
    **options: Any,
) -> OncePerSlot:
    """Run a function once in each slot of a schedule, in the leader, however often and wherever it is called.

    For a function that a scheduler of each process calls. A call runs the last slot that is due, unless that was
    decided before. It returns what the function returns, or a ``NotRun``, which is false and has the reason:
    ``not-leading``; ``done``, ``missed``, ``overlapped``, ``in-doubt``, ``unknown`` and ``waiting``, as in the record;
    ``undecided`` and ``redis-unavailable`` if Redis could not be asked, so that a later call asks again.

    The options are those of ``periodic``, but for ``jitter``, and mean the same. The decorated function has the
    parameters of the function. A coroutine function asks Redis in a thread.

    ``election=None``: no leader is needed, and the process that calls first runs the slot. Redis and the names of the
    keys are those of the election ``using``, which need not be started. This promises less: a slot is started at most
    once as long as Redis loses no data. If it comes back with older data, the slots since then may be started once
    more. If it has lost all of them, the slot that is due is ``unknown``, and is not run. A run whose end nobody tells
    is in doubt, and is never started again. It blocks a run in another process only if the job has a ``max_run``, for
    so long. A process whose own run goes on leaves the slot to the others, and its call returns ``overlapped``.

    Where this process does not lead, a call is local. In the leader it takes a few round trips on a new connection,
    and one more when the function has returned or raised. With ``election=None`` each call takes one at least. What the
    function raises is recorded, and raised. Any thread.

    Raise as ``periodic`` does, ``TypeError`` for ``using`` with an election, ``ValueError`` for ``in_doubt="rerun"``
    without one, and ``TypeError`` for what cannot be guarded, such as a generator function or a task of
    another framework. The decorated function raises ``UnknownElection`` if the alias is not declared.
    """
    alias = using if election is None else election
    make = declared("once_per_slot", every, election=alias, **options)
    if election is not None and using != DEFAULT_ALIAS:
        raise TypeError("once_per_slot: using belongs to election=None; give one of the two")
    if election is None and options.get("in_doubt") == "rerun":
        text = "in_doubt='rerun' needs a leader, who knows which runs have no end; leave it out, or name an election"
        raise ValueError(f"once_per_slot: {text}")

    def decorate(target: Any) -> Any:
        check_function("once_per_slot", target)
        job, where = make(name or described(target)), described(target)
        guarded = _guarded(target, (Leaderless if election is None else Claims)(alias, job))
        spec = JobSpec(job, lambda run: target())
        jobs.add(Registered(alias, spec, where, guarded, called=True, leaderless=election is None))
        return guarded

    return decorate


def _guarded(target: Any, claims: Claims) -> Any:
    if iscoroutinefunction(target):

        @functools.wraps(target)
        async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
            begun = (
                await sync_to_async(claims.begin, thread_sensitive=False)() if claims.may() else claims.not_leading()
            )
            if isinstance(begun, NotRun):
                return begun
            pid = os.getpid()
            try:
                result = await target(*args, **kwargs)
            except BaseException as error:
                if os.getpid() == pid:  # in a forked child no thread is left to do it
                    await sync_to_async(begun, thread_sensitive=False)(error)
                raise
            if os.getpid() == pid:
                await sync_to_async(begun, thread_sensitive=False)(None)
            return result

        return guarded_coroutine

    @functools.wraps(target)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        begun = claims.begin() if claims.may() else claims.not_leading()
        if isinstance(begun, NotRun):
            return begun
        try:
            result = target(*args, **kwargs)
        except BaseException as error:
            begun(error)
            raise
        begun(None)
        return result

    return guarded


class Claims:
    """The claims of one decorated function. Any thread."""

    def __init__(self, alias: str, job: Job) -> None:
        self._alias, self._job = alias, job
        self._claimer = Claimer(job, f"LEADER_ELECTIONS[{alias!r}]")  # one for all threads, as it knows what has run
        self._tested: tuple[object, int] = None, 0
        """In tests: the override, and the last slot that was run in it."""

    def may(self) -> bool:
        """Return whether this process leads. Local."""
        return is_leader(self._alias)

    @staticmethod
    def not_leading() -> NotRun:
        """Return the answer where this process does not lead. Local."""
        return NotRun("not-leading")

    def begin(self) -> NotRun | Callable[[BaseException | None], None]:
        """Claim the last slot. Return what to call when its run has ended, or why it is not run."""
        election = elections[self._alias]
        if election.overridden:
            return self._in_test(election.overridden)
        access = election.access()
        if access is None:
            return self.not_leading()
        claimed, since = self._claimer.claim(access), clock.now()
        if isinstance(claimed, str):
            return NotRun(claimed)
        return self._end(functools.partial(self._claimer.ended, access), claimed, since)

    def _end(self, record: Callable[[End], None], end: End, since: float) -> Callable[[BaseException | None], None]:
        """Return what records the end of a run, and does nothing in a child that the run has forked."""
        return functools.partial(self._record, record, end, since, os.getpid())

    def _record(
        self, record: Callable[[End], None], end: End, since: float, pid: int, error: BaseException | None
    ) -> None:
        if os.getpid() != pid:
            return
        outcome: Outcome = "ok" if error is None else "failed"
        text = "" if error is None else text_of(error)
        record(end._replace(outcome=outcome, took=clock.now() - since, error=text))

    def _in_test(self, override: object) -> NotRun | Callable[[BaseException | None], None]:
        said = overrides.slots
        slot = self._job.schedule.latest(int((time.time() if said.at is None else said.at) * 1000))
        if said.verdict not in ("", "run"):
            return NotRun(said.verdict)
        last, decided = self._tested
        if last is override and slot <= decided and not said.verdict:
            return NotRun("done")
        self._tested = override, slot
        return lambda error: None


class Leaderless(Claims):
    """The claims of a function that needs no leader."""

    def __init__(self, alias: str, job: Job) -> None:
        super().__init__(alias, job)
        self._own: dict[int, LeaderlessClaimer] = {}
        """By the process. A child must not claim with the ids of its parent, whose threads may hold the lock."""

    def may(self) -> bool:
        """Return True: any process may claim. Local."""
        return True

    def begin(self) -> NotRun | Callable[[BaseException | None], None]:
        """Claim the last slot. Return what to call when its run has ended, or why it is not run."""
        election = elections[self._alias]
        if override := election.overridden or overrides.decides_slots:
            return self._in_test(override)
        own = self._own.get(os.getpid()) or self._own.setdefault(
            os.getpid(), LeaderlessClaimer(self._job, election.label)
        )
        where = election.connection()
        claimed, since = own.claim(*where), clock.now()
        if isinstance(claimed, str):
            return NotRun(claimed)
        return self._end(functools.partial(own.ended, *where), claimed, since)
