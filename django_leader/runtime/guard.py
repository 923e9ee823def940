"""The end of a guarded body before the lease of its process ends. The lease is kept until the body has ended.

NOT guaranteed here: that the body ends in time (see ``interruption``). If it does not, the lease runs out meanwhile.

- When the lease is nearly over and has not been renewed, the body is interrupted, urgently.
- When the term ends voluntarily (SIGTERM, a resignation, a stop), the body is interrupted at once. It keeps what is
  left of the lease until it has ended: the loss callbacks and the release come after it.
- When the term has been lost to another process, or with the data, the body is interrupted, and nothing waits for it.
- A body may swallow the interruption, and its own handler of SIGINT may have got it. If it then ends as if it had done
  its work, ``LeadershipLost`` is raised behind it. After SIGTERM it is not, because the application may handle that.
- In a child of a fork, which never leads, the body goes on uninterrupted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from django_leader.exceptions import LeaderError, LeadershipLost
from django_leader.system import clock
from django_leader.system.interruption import Interruptions, Scope, here

if TYPE_CHECKING:
    from .election import LeaderElection

Result = TypeVar("Result")

GRACE = 0.1
"""Part of the lease that must be left when the body is interrupted, so that the body can end before the lease does."""
CHECK_INTERVAL = 0.1
"""Seconds between two checks of the lease, because a suspend stretches every wait."""


class NotGuarded(LeaderError):
    """The body has not been called, because the system refuses the thread that would interrupt it."""


def run_guarded(election: LeaderElection, body: Callable[[], Result]) -> Result:
    """Call ``body`` in this thread while this process leads ``election``, and return what it returns.

    Call it behind a shield. Raise what ``body`` raises, ``LeadershipLost``, and ``NotGuarded``. If the body was to end
    because the lease could not be kept, and returns or exits with status 0, raise ``LeadershipLost``.
    """
    pid, thread, grant = os.getpid(), here(), election.grant
    grace = election.config.timing.ttl * GRACE
    over = threading.Event()
    scope = Scope(lambda: grant.deadline - grace - clock.now())

    def interrupt(*, urgent: bool) -> None:
        if pid == os.getpid():  # if not, this is a greenlet that a fork in C has copied
            thread.interrupt(scope, urgent=urgent)

    def watch() -> None:
        while pid == os.getpid() and not over.is_set():
            thread.repeat()  # what was sent before the last wait, if it has not arrived
            left = scope.left()
            if left <= 0 or not grant.left(clock.now()):
                interrupt(urgent=left <= 0)
            over.wait(min(left, CHECK_INTERVAL) if left > 0 else CHECK_INTERVAL)

    def lost(token: int, reason: str) -> None:
        if pid != os.getpid() or token != grant.token:
            return
        kept = reason in ("resigned", "callback-failed")
        interrupt(urgent=not kept)
        while kept and (left := grant.deadline - clock.now()) > 0 and not over.wait(min(left, CHECK_INTERVAL)):
            pass

    watcher = threading.Thread(target=watch, name=f"{election.label} interrupt", daemon=True)
    detach = election.attach(lost)
    try:
        _start(watcher, election.label)
        return _run(election, thread, body, scope)
    finally:
        over.set()
        detach()
        if (
            pid == os.getpid() and watcher.ident
        ):  # no thread goes on in the child of a fork in C, and Python does not know
            watcher.join()


def _run(election: LeaderElection, thread: Interruptions, body: Callable[[], Result], scope: Scope) -> Result:
    def broken_off() -> bool:
        return scope.due and (scope.urgent or not election.asked)

    try:
        result = thread.run(body, scope)
    except SystemExit as error:
        if error.code or not broken_off():
            raise
        raise LeadershipLost from error
    if broken_off():
        raise LeadershipLost
    return result


def _start(watcher: threading.Thread, label: str) -> None:
    try:
        watcher.start()
    except (RuntimeError, MemoryError) as error:
        raise NotGuarded(
            f"{label}: {error}, and without a thread the command could not be interrupted in time. Check the process "
            "limits of the container (pids) and of the user (ulimit -u)"
        ) from error
