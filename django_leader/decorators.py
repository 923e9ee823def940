"""``@leader_required``: a management command that runs in one process at a time.

NOT guaranteed here: that a body which cannot be interrupted stops in time. The interruption is an exception; code in C
that does not come back to Python gets it late, and code that swallows ``BaseException``, or has put a SIGINT handler of
its own in our place, not at all. Where that matters, hand the election's ``fencing_token`` to whoever can refuse a late
write.

The process of the command campaigns itself and holds the lease while the body runs. It does so in an election of the
command's own, because web workers hold ``default`` for as long as they live.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, overload

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from .autostart import is_test_process
from .conf import COMMAND_PREFIX
from .exceptions import LeadershipLost, OverrideMissing, RedisUnavailable
from .handler import elections
from .overrides import overrides
from .targets import Decorator, Target, check_command, check_target

if TYPE_CHECKING:
    from .election import LeaderElection

GRACE = 0.1
"""Of the lease: what must be left of it when the body is interrupted, so that it can end before the lease does."""
LOOK = 0.1
"""Seconds between two looks at the lease: a term can end before its time, and a suspend stretches every wait."""
UNAVAILABLE_EXIT = 2
"""The exit status when Redis could not be asked, as of ``leader_status``."""

_busy: set[str] = set()
_busy_lock = threading.Lock()


@overload
def leader_required(
    target: Target,
    *,
    election: str | None = ...,
    wait: float | None = ...,
    hold: float = ...,
    on_loss: Literal["interrupt", "continue"] = ...,
    exit_code: int = ...,
) -> Target: ...


@overload
def leader_required(
    target: None = None,
    *,
    election: str | None = ...,
    wait: float | None = ...,
    hold: float = ...,
    on_loss: Literal["interrupt", "continue"] = ...,
    exit_code: int = ...,
) -> Decorator: ...


def leader_required(
    target: Any = None,
    *,
    election: str | None = None,
    wait: float | None = 0.0,
    hold: float = 0.0,
    on_loss: Literal["interrupt", "continue"] = "interrupt",
    exit_code: int = 0,
) -> Any:
    """Run a management command only while its process leads. For the class or its ``handle``; with or without ().

    ``election``: the alias to campaign in; by default ``command:<name>``, an election of the command's own.
    ``wait``: seconds to wait for leadership. 0 is one attempt; None waits for ever, as a hot standby.
    ``hold``: seconds for which the lease is kept after the end, so that a short job that is started on several hosts
    by clocks that differ runs once. ``on_loss``: what happens to the body when the lease cannot be kept:
    ``"interrupt"`` raises ``LeadershipLost`` in it, before the lease has ended, and the command ends with an error;
    ``"continue"`` lets it go on. ``exit_code``: the exit status when another process leads.

    When another process leads, one line on stderr says who, and the body is not run. With ``--verbosity 0`` nothing is
    said, unless ``exit_code`` makes it an error. When Redis cannot be asked, the command fails with exit status 2.
    Options and help of the command stay as they are.

    Raise ``TypeError`` or ``ValueError`` at once, where it is used, for arguments that cannot be, and ``TypeError`` for
    a target that cannot be guarded: what is no command, and what another framework calls (see ``targets``). In a test,
    the command raises ``OverrideMissing`` unless the test says who leads: see ``testing``.
    """
    if not isinstance(election, str | None) or isinstance(exit_code, bool) or not isinstance(exit_code, int):
        raise TypeError(f"leader_required: election is {election!r}, exit_code {exit_code!r}; give a str and an int")
    _check_seconds("hold", hold)
    if wait is not None:
        _check_seconds("wait", wait)
    if on_loss not in ("interrupt", "continue"):
        raise ValueError(f"leader_required: on_loss is {on_loss!r}; use 'interrupt' or 'continue'")

    def decorate(target: Any) -> Any:
        check_target(target)
        if isinstance(target, type):
            target.handle = decorate(inspect.getattr_static(target, "handle"))  # type: ignore[attr-defined]
            return target
        if getattr(target, "_leader_required", False):
            raise TypeError("leader_required: decorate the command or its handle, not both")

        @functools.wraps(target)
        def handle(self: BaseCommand, *args: Any, **options: Any) -> Any:
            check_command(self, target)
            alias = election or COMMAND_PREFIX + type(self).__module__.rpartition(".")[2]
            with _leading(alias, wait, hold) as (leading, why):
                if leading:
                    interruptible = on_loss == "interrupt" and not leading.overridden  # an override has no lease
                    with _interrupted(leading) if interruptible else nullcontext():
                        return target(self, *args, **options)
            if exit_code:
                raise CommandError(f"Not run: {why}", returncode=exit_code)
            if options.get("verbosity") != 0:
                self.stderr.write(f"Not run: {why}", self.style.WARNING)
            return None

        handle._leader_required = True  # type: ignore[attr-defined]
        return handle

    return decorate if target is None else decorate(target)


@contextmanager
def _leading(alias: str, wait: float | None, hold: float) -> Iterator[tuple[LeaderElection | None, str]]:
    """The election ``alias`` while this process leads it; or None, and why not."""
    with _as_command_error():
        election = elections[alias]
    if override := election.overridden:  # read once, because another thread may end it
        yield (election, "") if override.cell[0] else (None, "this test says so")
        return
    if is_test_process() and not overrides.real_elections:
        raise OverrideMissing(
            f"LEADER_ELECTIONS[{alias!r}]: this process runs tests, and none has said who leads, so the command does "
            f"not ask Redis. Write 'with leading({alias!r}):' around the call to have the command run, "
            f"'with following({alias!r}):' to have it not run, or 'with real_elections():' to have it campaign on the "
            "Redis of the settings; all three are in django_leader.testing"
        )
    with _busy_lock:
        free = alias not in _busy
        _busy.add(alias)
    if not free:
        yield None, f"this process is running it already, in another thread (election {alias!r})"
        return
    ours, leads = not election.running, False
    try:
        if ours:
            with _as_command_error():
                election.start()
        if election.wait_for_leadership(wait):
            leads = True
            yield election, ""
        else:
            yield None, _who_leads(election)
    finally:
        if ours:
            election.stop(hold=hold if leads else 0.0)  # what has not run is not to be held back
        with _busy_lock:
            _busy.discard(alias)


@contextmanager
def _as_command_error() -> Iterator[None]:
    """Have settings that cannot be used end the command with their sentence alone, and not with a traceback."""
    try:
        yield
    except ImproperlyConfigured as error:
        raise CommandError(f"Not run: {error}", returncode=UNAVAILABLE_EXIT) from error


def _who_leads(election: LeaderElection) -> str:
    try:
        status = election.status()
    except RedisUnavailable as error:
        raise CommandError(f"Not run: {error}", returncode=UNAVAILABLE_EXIT) from error
    leader = status.leader
    if leader is None and status.quarantined:
        text = f"Redis is new or has lost data, so nobody leads the election {election.name!r} for another"
        return f"{text} {status.lease_left:.1f} s (QUARANTINE)"
    if leader is None and (left := election.hold_left or status.lease_left):
        return f"the last leader of the election {election.name!r} holds it for another {left:.1f} s"
    if leader is None:
        return f"nobody leads the election {election.name!r}, but this process did not win it in time"
    where = f" on {leader.hostname} (pid {leader.pid})" if leader.hostname else ""
    return f"{leader.instance_id}{where} leads the election {election.name!r}"


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"leader_required: {name} is {value!r}; give seconds as a number")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"leader_required: {name} is {value!r}; give a finite number of seconds, 0 or more")


@contextmanager
def _interrupted(election: LeaderElection) -> Iterator[None]:
    """Raises ``LeadershipLost`` in the body when the lease is nearly over and has not been renewed.

    In a child of a fork, which never leads, the body goes on uninterrupted.
    """
    pid = os.getpid()
    token, over, lost = election.fencing_token, threading.Event(), threading.Event()
    grace = election.config.timing.ttl * GRACE

    def watch() -> None:
        while (left := election.lease_left - grace) > 0 and election.fencing_token == token:
            if over.wait(min(left, LOOK)):
                return
        if pid == os.getpid():  # if not, this is a greenlet that a fork in C has copied
            lost.set()
            if not over.is_set():
                interrupt()

    in_main = threading.current_thread() is threading.main_thread()
    interrupt, restore = (_by_signal if in_main else _by_exception)(lambda: lost.is_set() and not over.is_set())
    watcher = threading.Thread(target=watch, name=f"{election.label} interrupt", daemon=True)
    watcher.start()
    try:
        yield
    except LeadershipLost as error:
        raise CommandError(f"Interrupted: {election.label}: the lease could not be kept") from error
    finally:
        try:
            over.set()
            if pid == os.getpid():  # no thread goes on in the child of a fork in C, and Python does not know
                watcher.join()
        except LeadershipLost:
            over.set()  # it was on its way when the body ended by itself
        restore()


def _by_signal(due: Callable[[], bool]) -> tuple[Callable[[], object], Callable[[], object]]:
    """To interrupt the main thread, and to undo it: SIGINT, which ends even a blocking system call."""
    sent = False

    def interrupt() -> None:
        nonlocal sent
        sent = True
        signal.pthread_kill(ident, signal.SIGINT)

    def on_signal(number: int, frame: FrameType | None) -> Any:
        nonlocal sent
        if not sent:
            return previous(number, frame) if callable(previous) else None
        sent = False
        if due():
            raise LeadershipLost
        return None  # too late: the body has just ended by itself

    ident, previous = threading.get_ident(), signal.signal(signal.SIGINT, on_signal)
    return interrupt, lambda: signal.signal(signal.SIGINT, previous)


def _by_exception(due: Callable[[], bool]) -> tuple[Callable[[], object], Callable[[], object]]:
    """To interrupt another thread, and to undo it: an exception that Python raises when it runs there again."""
    import ctypes  # takes some milliseconds, and most processes never come here

    ident, sent = threading.get_ident(), False

    def interrupt() -> None:
        nonlocal sent
        if due():
            sent = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(LeadershipLost))

    def restore() -> None:
        # Taking it back with a null pointer leaves Python 3.11 looking for it for ever; let it come instead.
        with suppress(LeadershipLost):
            for _ in range(10 * sent):
                time.sleep(0)

    return interrupt, restore
