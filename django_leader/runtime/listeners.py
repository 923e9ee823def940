"""The functions that the application has registered, and how each of them is called.

NOT guaranteed here: that a function returns, or in which thread it runs. ``callbacks`` chooses the threads.

- If a function returns a coroutine, that is run to its end in an event loop of the same thread. Under gevent and
  eventlet that is refused, because the requests run in the same thread.
- Each call sets a mark in its context. Coroutines inherit the context, and so do the threads that they call. So the
  election knows that it is called from within a callback, and does not wait there for what can only follow that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, NamedTuple

from django_leader.exceptions import LeaderError
from django_leader.system.starvation import green

from .work import Factory, First, Gain, TermWork, Work

Callback = Callable[[], Any]
Gained = Callable[[int], Any]
"""Takes the token of the term."""
Lost = Callable[[int, str], Any]
"""Takes the token of the term, and the reason for its end."""
Changed = Callable[[str, str], Any]
"""Takes the instance ids of the previous leader and of the current one."""
RunCoroutine = Callable[[Coroutine[Any, Any, Any]], Any]
GREEN = (
    "coroutines cannot run under gevent or eventlet, because requests share one thread with them and Django would "
    "refuse each database call of a request meanwhile; give the election a function, or a context manager, that is not "
    "asynchronous"
)


class Pair(NamedTuple):
    """Functions for the gain and the loss of a term: ``lost`` is called when ``gained`` has returned, or raised.

    ``what``: what ``gained`` calls, for the log.
    """

    gained: Gained
    lost: Lost
    what: str


class _Call:
    """One call of a function of ``listeners``, in the process ``pid``; ``over`` when it has returned or raised."""

    __slots__ = ("listeners", "over", "pid")

    def __init__(self, listeners: Listeners) -> None:
        self.listeners, self.pid, self.over = listeners, os.getpid(), False


_calls: ContextVar[tuple[_Call, ...]] = ContextVar("django_leader_calls", default=())


@contextmanager
def closing_unbegun(coroutine: Coroutine[Any, Any, Any]) -> Iterator[None]:
    """Close the coroutine at the end if it has not begun, or Python warns that it was never awaited. Local."""
    try:
        yield
    finally:
        if getcoroutinestate(coroutine) == CORO_CREATED:
            coroutine.close()


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run the coroutine to its end in an event loop of the calling thread. Raise what it raises.

    Raise ``LeaderError`` under gevent and eventlet. asyncio keeps the running loop of a thread of the system, so there
    each greenlet of the process would find itself within that loop.
    """
    with closing_unbegun(coroutine):
        if green():
            raise LeaderError(GREEN)
        asyncio.run(coroutine)


class Listeners:
    """The registered functions: of the token, of token and reason, of the two leaders.

    ``after_callback`` is called after each of them, in the same thread. It is not called in a child that the callback
    has forked, because it may close what the child shares with its parent, such as a connection to a database.
    ``run_coroutine`` runs what a function returns if that is a coroutine.
    """

    def __init__(self, after_callback: Callback, run_coroutine: RunCoroutine = run_coroutine) -> None:
        self._after_callback, self.run_coroutine = after_callback, run_coroutine
        # Any thread appends. A term uses the functions that are registered when it begins; ``on_loss``, when it ends.
        self.on_gain: list[Gained] = []
        self.on_loss: list[Lost] = []
        self.on_change: list[Changed] = []
        self.pairs: list[Pair] = []
        self.works: list[Factory] = []
        # Set when the election is made.
        self.has_jobs: Callable[[], bool] = lambda: False
        self.claims_slots: Callable[[int], TermWork | None] = lambda token: None
        """Returns what claims the slots of the jobs in the term with this token."""
        # Any thread sets; by the database that is fenced, what tells it of a term before anything else is called.
        self.fences: dict[object, Gained] = {}

    @property
    def tells_loss(self) -> bool:
        """Whether there is something to run when a term ends. Local."""
        return bool(self.on_loss or self.pairs or self.works or self.has_jobs())

    def changed(self, previous: str, current: str) -> list[Callback]:
        """Return what to run when another process leads."""
        return [self.call(function, previous, current) for function in self.on_change]

    def call_here(self) -> bool:
        """Return whether the caller is in one of these functions, or inherits its context. Local, takes no lock."""
        return any(call.listeners is self and call.pid == os.getpid() and not call.over for call in _calls.get())

    def call(self, function: Callable[..., Any], *args: Any) -> Callback:
        """Return the call of ``function`` with ``args``, marked and followed by ``after_callback``."""

        def call() -> None:
            mark = _Call(self)
            before = _calls.set((*_calls.get(), mark))
            try:
                if iscoroutine(result := function(*args)):
                    with closing_unbegun(result):
                        self.run_coroutine(result)
            finally:
                mark.over = True  # also if a thread that goes on has inherited it
                _calls.reset(before)
                if mark.pid == os.getpid():
                    self._after_callback()

        return call


class TermCalls:
    """The calls of one term: ``gains`` at its beginning, and those that ``losses`` returns at its end."""

    def __init__(self, listeners: Listeners, token: int, label: str) -> None:
        self._listeners, self._token, self._label = listeners, token, label
        works: list[TermWork] = [Work(factory, token) for factory in listeners.works]
        if listeners.has_jobs() and (jobs := listeners.claims_slots(token)):
            works.append(jobs)
        first = First([partial(tell, token) for tell in list(listeners.fences.values())])
        self._pairs = [(Gain(listeners.call(pair.gained, token), pair.what, first), pair) for pair in listeners.pairs]
        self._works = [(Gain(listeners.call(work.run), work.what, first), work) for work in works]
        alone = [Gain(listeners.call(function, token), first=first) for function in listeners.on_gain]
        self.gains = [*(gain for gain, _ in self._pairs), *alone, *(gain for gain, _ in self._works)]
        if listeners.fences and not self.gains:
            self.gains = [Gain(lambda: None, first=first)]

    def losses(self, reason: str) -> list[Callback]:
        """Return what to call in order when the term has ended, and each gain has begun or was skipped.

        The first ones signal the end to the work. Those behind the loss callbacks wait for what has begun.
        """
        call, token = self._listeners.call, self._token
        calls: list[Callback] = [work.end for _, work in self._works]
        calls += [call(function, token, reason) for function in self._listeners.on_loss]
        for gain, pair in self._pairs:
            if not gain.skipped:
                calls += [partial(gain.wait, "%s: %s", self._label, pair.what), call(pair.lost, token, reason)]
        return calls + [partial(wait_for, gain, self._label, work) for gain, work in self._works]


def wait_for(gain: Gain, label: str, work: TermWork) -> None:
    """Wait until the work has ended, and name it in the log if that takes long."""
    gain.wait("%s: %s", label, work.said)
