"""``@leader_only`` and ``assert_leader()``: a function that runs only in the process that leads.

NOT guaranteed here: that the process still leads when the function ends, or at its next step. It is asked once, before
the function begins. Work that takes long asks its term: ``assert_leader()`` returns it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from asgiref.sync import iscoroutinefunction

from .conf import DEFAULT_ALIAS
from .exceptions import NotLeader
from .handler import elections, is_leader
from .protocol.records import NotRun
from .system.log import log
from .targets import check_function

if TYPE_CHECKING:
    from .runtime.term import Term

P = ParamSpec("P")
Result = TypeVar("Result")
Default = TypeVar("Default")
Skipped = TypeVar("Skipped", covariant=True)
NOT_LEADING = NotRun("not-leading")


class LeaderOnly(Protocol[Skipped]):
    """What ``leader_only`` returns when it is called without a function."""

    @overload
    def __call__(
        self, target: Callable[P, Coroutine[Any, Any, Result]], /
    ) -> Callable[P, Coroutine[Any, Any, Result | Skipped]]: ...

    @overload
    def __call__(self, target: Callable[P, Result], /) -> Callable[P, Result | Skipped]: ...


@overload
def leader_only(
    target: Callable[P, Coroutine[Any, Any, Result]], /
) -> Callable[P, Coroutine[Any, Any, Result | NotRun]]: ...


@overload
def leader_only(target: Callable[P, Result], /) -> Callable[P, Result | NotRun]: ...


@overload
def leader_only(election: str = ...) -> LeaderOnly[NotRun]: ...


@overload
def leader_only(election: str = ..., *, default: Default) -> LeaderOnly[Default]: ...


def leader_only(election: Any = DEFAULT_ALIAS, *, default: Any = NOT_LEADING) -> Any:
    """Run a function or coroutine function only if this process leads; skip it otherwise.

    Write ``@leader_only``, ``@leader_only("reports")`` or ``@leader_only(default=None)``. ``election``: the alias.
    ``default``: what a call returns when it is skipped; by default a ``NotRun``, which is false and has the reason.
    The decorated function keeps its signature, and a method stays one. A coroutine function is asked when its coroutine
    begins to run.

    To decorate is local, and reads no setting. A call adds what ``is_leader()`` costs: local, any thread. A skip is
    logged at DEBUG only, because it is what all processes but one do at each call.

    Raise ``TypeError`` at once for an alias that is no ``str``, and for what cannot be guarded: a class, a generator
    function, and what another framework has made of a function, such as a task of Celery. Decorate the function below
    it. The decorated function raises ``UnknownElection`` when it is called, if the alias is not declared.
    """
    if isinstance(election, str):
        return functools.partial(_guarded, alias=election, default=default)
    if not callable(election) and not isinstance(election, staticmethod | classmethod):
        raise TypeError(f"leader_only: election is {election!r}; give the alias of an election, or a function")
    return _guarded(election, DEFAULT_ALIAS, default)


def _guarded(target: Any, alias: str, default: Any) -> Any:
    check_function("leader_only", target)

    def leads() -> bool:
        if is_leader(alias):
            return True
        text = "LEADER_ELECTIONS[%r]: %s was not run, because this process does not lead"
        log(logging.DEBUG, text, alias, getattr(target, "__qualname__", repr(target)))
        return False

    if iscoroutinefunction(target):

        @functools.wraps(target)
        async def guarded_coroutine(*args: Any, **kwargs: Any) -> Any:
            return await target(*args, **kwargs) if leads() else default

        return guarded_coroutine

    @functools.wraps(target)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs) if leads() else default

    return guarded


def assert_leader(using: str = DEFAULT_ALIAS) -> Term:
    """Return the term in which this process leads the election ``using``, an alias. Local; any thread.

    Raise ``NotLeader``, which names the election and the leader that this process has seen last, if this process does
    not lead. Raise ``UnknownElection`` for an alias that is not declared. In a test, say who leads: see ``testing``.
    """
    election = elections[using]
    term = election.term() if is_leader(using) else None
    if term:
        return term
    if not election.running:
        who = "it is no candidate (manage.py leader_status --explain says why)"
    else:
        who = f"{election.seen_leader} does" if election.seen_leader else "no process is known to lead now"
    raise NotLeader(
        f"{election.label}: this process ({election.instance_id}) does not lead; {who}. Call this in the process that "
        "leads: behind is_leader(), in a function under @leader_only, or in work that its term begins"
    )
