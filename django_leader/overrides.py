"""The overrides of tests: what this process answers for an alias in place of its election.

They are kept by alias, because ``override_settings`` makes the process forget its elections and make them anew. They
count in the whole process, because the application that is tested may have threads of its own. A forked child starts
without them, because it is another process.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .runtime.election import LeaderElection
    from .runtime.grant import Grant


class Override:
    """One override, from its begin to its end. Compared by identity."""

    __slots__ = ("alias", "grant")

    def __init__(self, alias: str, grant: Grant) -> None:
        self.alias, self.grant = alias, grant


class SlotOverride(NamedTuple):
    """What a test says of the slots of jobs."""

    at: float | None
    """Seconds since the Unix epoch in place of the clock."""
    verdict: str
    """What every claim is answered; empty: what follows from the time."""


class Overrides:
    """The overrides of this process that have not ended. Thread-safe; one object, made at import."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Under the lock:
        self._active: list[Override] = []
        """The newest is last, and counts."""
        self._elections: weakref.WeakSet[LeaderElection] = weakref.WeakSet()
        """All elections, also those that were forgotten, because a module of the application may have kept one."""
        self._slots: list[SlotOverride] = []
        self._real = 0
        """How many uses of ``real_elections()`` have not ended."""

    def begin(self, alias: str, grant: Grant) -> Override:
        """Have ``grant`` answer for ``alias`` until ``end``. Local."""
        override = Override(alias, grant)
        with self._lock:
            self._active.append(override)
            self._apply(alias)
        return override

    def end(self, override: Override) -> None:
        """End ``override``, whether or not it is the newest. Do nothing in a child that was forked since. Local."""
        with self._lock:
            if override in self._active:
                self._active.remove(override)
                self._apply(override.alias)

    def follow(self, election: LeaderElection) -> None:
        """Apply the overrides of its alias to ``election`` from now on. Local."""
        with self._lock:
            self._elections.add(election)
            self._apply(election.name)

    def _apply(self, alias: str) -> None:
        grant = next((override.grant for override in reversed(self._active) if override.alias == alias), None)
        for election in list(self._elections):
            if election.name == alias and election.overridden is not grant:
                election.override(grant)

    def begin_slots(self, override: SlotOverride) -> None:
        """Have ``override`` decide claims until ``end_slots``. Local."""
        with self._lock:
            self._slots.append(override)

    def end_slots(self, override: SlotOverride) -> None:
        """End ``override``. Local."""
        with self._lock:
            self._slots.remove(override)

    @property
    def decides_slots(self) -> SlotOverride | None:
        """What a test has said of slots; None if none has. Local."""
        return self._slots[-1] if self._slots else None

    @property
    def slots(self) -> SlotOverride:
        """What tests say of slots now. Local."""
        return self.decides_slots or SlotOverride(None, "")

    @property
    def real_elections(self) -> bool:
        """Whether a test has said that commands shall campaign. Local."""
        return self._real > 0

    def begin_real_elections(self) -> None:
        """Let commands campaign until ``end_real_elections`` has been called as often. Local."""
        with self._lock:
            self._real += 1

    def end_real_elections(self) -> None:
        """End one use. Local."""
        with self._lock:
            self._real -= 1

    def after_fork(self) -> None:
        """Forget the overrides of the parent in a forked child, and a lock that no thread is left to release."""
        self._lock = threading.RLock()
        self._active, self._slots = [], []


overrides = Overrides()
