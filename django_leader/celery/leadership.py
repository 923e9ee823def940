"""This process in the election of Celery beat: when it becomes a candidate, waits, leads and stops.

NOT guaranteed here: that the process still leads when the caller goes on.

The thread of beat calls all of this. A signal handler may interrupt it anywhere, and then call ``stop``. So the thread
waits at a lock that no other thread needs, and the caller says by ``sending`` when a release has to wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from django_leader.conf import BEAT_ALIAS
from django_leader.handler import elections
from django_leader.runtime.work import locked
from django_leader.settings import read
from django_leader.system import clock

if TYPE_CHECKING:
    from django_leader.runtime.election import LeaderElection
    from django_leader.runtime.jobs import Access
    from django_leader.runtime.term import Term

PAUSE = 0.005
"""Seconds between two looks whether a task is still being sent."""
JOINED = (
    "LEADER_ELECTIONS[%r] starts by itself in other processes, so one of these could lead, and no beat would send "
    "anything. Set its AUTOSTART to False"
)


class Leadership:
    """One process in the election ``alias``.

    ``sending`` returns whether a task is being sent, for which a release waits.
    """

    def __init__(self, alias: str, sending: Callable[[], bool]) -> None:
        self._alias, self._sending = alias, sending
        self._election: LeaderElection | None = None
        self._gained = locked()

    @property
    def label(self) -> str:
        """What logs call the election."""
        return f"LEADER_ELECTIONS[{self._alias!r}]"

    def start(self) -> None:
        """Become a candidate, at the first call. Local.

        In a thread of its own, so that SIGTERM is left to beat, which saves its schedule before it hands over.
        Raise ``ImproperlyConfigured``.
        """
        if self._election is not None:
            return
        if self._alias != BEAT_ALIAS and read(self._alias).autostart is not False:
            raise ImproperlyConfigured(JOINED % self._alias)
        election = elections[self._alias]
        failed: list[Exception] = []

        def start() -> None:
            try:
                election.start()
            except Exception as error:
                failed.append(error)

        election.on_become_leader(self._wake)
        election.on_lose_leadership(self._wait_until_sent)
        thread = threading.Thread(target=start, name=f"{election.label} start", daemon=True)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        self._election = election

    def term(self) -> Term | None:
        """Return the term of this process, None while it does not lead. Local."""
        return self._election.term() if self._election else None

    def access(self) -> Access | None:
        """Return what claims need, None while this process does not lead. Local."""
        return self._election.access() if self._election else None

    def wait(self, seconds: float) -> None:
        """Wait until a term begins, or for ``seconds``."""
        self._gained.acquire(timeout=seconds)

    def resign(self) -> None:
        """Let another process lead. Local."""
        if self._election:
            self._election.resign()

    def stop(self) -> None:
        """Give up leadership and candidacy. Return when the next leader may lead, after a few milliseconds."""
        if self._election:
            self._election.stop()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # nobody has waited since the last term began
            self._gained.release()

    def _wait_until_sent(self) -> None:
        """Keep a lease that ends voluntarily until the task that is being sent is sent."""
        ttl = self._election.config.timing.ttl if self._election else 0.0
        until = clock.now() + ttl
        while self._sending() and clock.now() < until:
            time.sleep(PAUSE)
