"""Elections that are broken on purpose, to show that the checker finds what is broken."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from django_leader.protocol import machine, scripts
from django_leader.redis import runner
from django_leader.runtime import state as shared
from django_leader.runtime.election import LeaderElection
from django_leader.runtime.listeners import TermCalls
from django_leader.system.pidfd import HolderWatch, Identity
from tests.simulation import bugs


class Flag(LeaderElection):
    """Leads from the gain to the refusal, whatever the clock says: the classical fault of a leader election."""

    @property
    def lease_left(self) -> float:
        return 1.0 if self.is_leader() else 0.0


def nothing() -> None:
    """No patch."""


def no_deadline() -> None:
    """The term ends when a renewal is refused, and not before."""

    def campaigned(state: machine.State, *args: object) -> machine.State:
        after: machine.State = real(state, *args)  # type: ignore[arg-type]
        return after._replace(term=machine.Term(after.term.token, math.inf)) if after.term else after

    real = machine._campaigned
    machine._campaigned = campaigned  # type: ignore[assignment]


def forgetful() -> None:
    """That the server's clock was seen to be wrong is forgotten."""

    def observe(state: machine.State, *args: object) -> machine.State:
        return real(bugs.forgetful(state), *args)  # type: ignore[arg-type]

    real = machine._observe
    vars(machine)["_observe"] = observe


def blind_release() -> None:
    """Whoever leaves gives back the lease, whosever it is."""
    real = scripts.script

    def script(name: str, *args: str) -> scripts.Script:
        if name != "release":
            return real(name, *args)
        source = (
            "redis.call('DEL', KEYS[1]); redis.call('HSET', KEYS[3], 'kind', 'free'); return ARGV[1] .. '\\nreleased'"
        )
        return scripts.Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    vars(runner)["script"] = script


def blind_claim() -> None:
    """Whoever knows of a death is granted the lease, whatever became of the data."""
    real = scripts.script

    def script(name: str, *args: str) -> scripts.Script:
        found = real(name, *args)
        checked = "kind == 'lease' and ARGV[14] == holder and ARGV[15] == int(token)"
        source = found.source.replace(checked, "ARGV[15] ~= '0'")
        return scripts.Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    vars(runner)["script"] = script


def no_fork_guard() -> None:
    """A child goes on where its parent was."""
    vars(shared)["new_cell"] = lambda deadline: [deadline]
    LeaderElection.after_fork = lambda self: None  # type: ignore[method-assign]


def lost_loss() -> None:
    """Keeps every loss to itself."""
    TermCalls.losses = lambda self, reason: []  # type: ignore[method-assign]


def stopped_is_dead() -> None:
    """Whoever does not run counts as dead."""

    def dead(self: HolderWatch) -> tuple[str, int] | None:
        term, published = self._followed or (None, "")
        if holder := Identity.from_text(published):
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{holder.pid}/stat").read_text()
                if stat.rpartition(")")[2].split()[0] == "T":
                    return term
        return real(self)

    real = HolderWatch.dead
    HolderWatch.dead = dead  # type: ignore[method-assign]


PLANTS: dict[str, tuple[type[LeaderElection], Callable[[], None]]] = {
    "": (LeaderElection, nothing),
    "no-deadline": (Flag, no_deadline),
    "forgetful": (LeaderElection, forgetful),
    "blind-release": (LeaderElection, blind_release),
    "blind-claim": (LeaderElection, blind_claim),
    "no-fork-guard": (LeaderElection, no_fork_guard),
    "lost-loss": (LeaderElection, lost_loss),
    "stopped-is-dead": (LeaderElection, stopped_is_dead),
}
