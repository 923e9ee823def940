"""``@leader_required``: a management command that runs in one process at a time.

NOT guaranteed here: that a body which cannot be interrupted stops in time (see ``interruption``). Where that matters,
pass the election's ``fencing_token`` to the system that can refuse a late write.

The process of the command campaigns itself and holds the lease while the body runs. It does so in an election of the
command's own, because web workers hold ``default`` for as long as they live.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from .conf import COMMAND_PREFIX
from .exceptions import LeadershipLost, OverrideMissing, RedisUnavailable
from .handler import elections
from .overrides import overrides
from .runtime.guard import NotGuarded, run_guarded
from .startup.autostart import is_test_process
from .system import clock
from .system.forks import unsupported
from .system.interruption import here, shielded
from .targets import Decorator, Target, check_command, check_target

if TYPE_CHECKING:
    from .runtime.election import LeaderElection
    from .runtime.grant import Grant

UNAVAILABLE_EXIT = 2
"""The exit status when it cannot be found out who leads, as of ``leader_status``, or the body cannot be guarded."""

WAIT = 0.5
"""Seconds between two checks whether a command around must end, while this one waits for leadership."""

GAVE_UP = {
    "resigned": "leadership was given up (resign() or stop())",
    "callback-failed": "a callback failed at the beginning of the term",
}
"""What to say of a term that this process has ended itself, by its reason."""

_busy: dict[tuple[str, int], tuple[int, int]] = {}
"""The elections that lead for a command: by alias and process, the process and thread of each. The thread that sets an
entry (atomically) deletes it. A forked child inherits its parent's entries, which count for nothing there."""


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

    ``election``: the alias to campaign in; by default ``command:<name>``, an election of the command's own. While the
    command leads another one, such as ``default``, no other process does, so all that its leader does is done here: the
    jobs of ``periodic``, the work of ``while_leading``, and callbacks.
    ``wait``: seconds to wait for leadership. 0 is one attempt; None waits for ever, as a hot standby.
    ``hold``: seconds for which the lease is kept after the end, so that a short job that is started on several hosts
    by clocks that differ runs once. ``on_loss``: what happens to the body when the lease cannot be kept:
    ``"interrupt"`` raises ``LeadershipLost`` in it, before the lease has ended, and the command ends with an error
    (exit status 1); ``"continue"`` lets it go on. ``exit_code``: the exit status when this process does not lead in
    time, because another one leads, a ``hold`` or a quarantine goes on, or another thread runs the command.

    In these cases one line on stderr says why, and the body is not run. With ``--verbosity 0`` nothing is printed,
    unless ``exit_code`` makes it an error. Options and help of the command stay as they are.

    The command fails with exit status 2 when Redis is unreachable at the end of ``wait``. With ``wait=None`` it does
    not fail then, but waits until Redis is reachable again. It fails with exit status 2 at once when the settings
    cannot be used, the alias is not declared, the platform supports no elections (Windows), or no thread can be started
    that would interrupt the body.

    To decorate is local. The command connects to Redis when it runs. The body runs in the thread that calls the
    command; another thread sends the heartbeats.

    Raise ``TypeError`` or ``ValueError`` at once, where the decorator is used, for invalid arguments. Raise
    ``TypeError`` for a target that cannot be guarded: one that is no command, or that another framework calls (see
    ``targets``). For ``call_command`` each failure above is a ``CommandError``; within a guarded body that must end,
    too, it is ``LeadershipLost``. In a test, the command raises ``OverrideMissing`` unless the test says who leads: see
    ``testing``.
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
            with shielded() as thread, _as_command_error(NotGuarded), _leading(alias, wait, hold) as (leading, why):
                if leading:
                    body = functools.partial(target, self, *args, **options)
                    interruptible = on_loss == "interrupt" and not leading.overridden  # an override has no lease
                    return run_guarded(leading, body) if interruptible else thread.run(body)
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
    """Yield the election ``alias`` while this process leads it; or None, and why not."""
    with _as_command_error():
        election = elections[alias]
    if override := election.overridden:  # read once, because another thread may end it
        yield (election, "") if override.cell[0] else (None, "the test says that this process does not lead")
        return
    _check_override(alias)
    if platform := unsupported():
        raise CommandError(
            f"Not run: {election.label}: this process cannot participate: {platform}", returncode=UNAVAILABLE_EXIT
        )
    me = os.getpid(), threading.get_ident()
    holder = _busy.setdefault((alias, me[0]), me)
    if holder is not me and holder == me:  # a command around this one leads it, and decides when that ends
        yield election, ""
        return
    if holder is not me:
        yield None, f"this process already runs it in another thread (election {alias!r})"
        return
    try:
        with _campaigning(election, wait, hold) as leads:
            yield (election, "") if leads else (None, _who_leads(election))
    finally:
        del _busy[alias, me[0]]


@contextmanager
def _campaigning(election: LeaderElection, wait: float | None, hold: float) -> Iterator[bool]:
    """Yield whether this process leads. It is a candidate for that long, if it is not one already."""
    ours, kept, grant = not election.running, 0.0, election.grant
    try:
        if ours:
            with _as_command_error():
                election.start()
        leads = _wait(election, wait)
        grant = election.grant
        kept = hold if leads else 0.0  # a job that has not run must not be held back
        yield leads
    except LeadershipLost as error:
        kept = 0.0  # because the job has not been done
        if here().due:  # a command around this one must end, too, and may catch an ordinary error
            raise
        raise CommandError(f"Interrupted: {election.label}: {_why_lost(election, grant)}") from error
    except NotGuarded:
        kept = 0.0
        raise
    except (SystemExit, KeyboardInterrupt):
        kept = 0.0 if election.asked else kept  # ended by SIGTERM, before the job was done
        raise
    finally:
        if ours:
            election.stop(hold=kept if election.is_leader() else 0.0, timeout=here().left())


def _why_lost(election: LeaderElection, grant: Grant) -> str:
    if grant.reason == "resigned" and election.asked:
        return "the process was asked to end (SIGTERM)"
    return GAVE_UP.get(grant.reason, "the lease could not be kept")


def _check_override(alias: str) -> None:
    """Raise ``OverrideMissing`` in a test that has not said who leads."""
    if is_test_process() and not overrides.real_elections:
        raise OverrideMissing(
            f"LEADER_ELECTIONS[{alias!r}]: this process runs tests, and the test does not say who leads, so the "
            f"command does not ask Redis. Write 'with leading({alias!r}):' around the call to have the command run, "
            f"'with following({alias!r}):' to have it not run, or 'with real_elections():' to have it campaign on the "
            "Redis of the settings; all three are in django_leader.testing"
        )


def _wait(election: LeaderElection, wait: float | None) -> bool:
    """Return whether this process leads in time. Raise ``LeadershipLost`` if a command around this one must end."""
    thread = here()
    if thread.left() is None:
        return election.wait_for_leadership(wait)
    until = math.inf if wait is None else clock.now() + wait
    while not election.wait_for_leadership(max(0.0, min(WAIT, until - clock.now()))):
        if thread.due:
            raise LeadershipLost
        if clock.now() >= until or not election.running:
            return False
    return True


@contextmanager
def _as_command_error(kind: type[Exception] = ImproperlyConfigured) -> Iterator[None]:
    """End the command with the text alone, without a traceback, if an error keeps the body from being run."""
    try:
        yield
    except kind as error:
        raise CommandError(f"Not run: {error}", returncode=UNAVAILABLE_EXIT) from error


def _who_leads(election: LeaderElection) -> str:
    try:
        status = election.status()
    except RedisUnavailable as error:
        raise CommandError(f"Not run: {error}", returncode=UNAVAILABLE_EXIT) from error
    leader = status.leader
    if leader is None and status.quarantined:
        text = f"Redis is new or has lost data, so no leader of the election {election.name!r} is elected"
        return f"{text} for up to {status.lease_left:.1f} s (QUARANTINE)"
    if leader is None and (left := election.hold_left or status.lease_left):
        return f"the last leader of the election {election.name!r} holds it for another {left:.1f} s"
    if leader is None:
        return f"the election {election.name!r} has no leader, but this process did not win it in time"
    where = f" on {leader.hostname} (pid {leader.pid})" if leader.hostname else ""
    return f"{leader.instance_id}{where} leads the election {election.name!r}"


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"leader_required: {name} is {value!r}; give seconds as a number")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"leader_required: {name} is {value!r}; give a finite number of seconds, 0 or more")
