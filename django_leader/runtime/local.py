"""An election within one process, for a machine without Redis: ``LOCAL``. For development.

NOT guaranteed here: that one process leads. Nothing is shared, so every candidate leads in its own process, and a hold
ends with its process.

Only the server is replaced. The candidate is the same as everywhere, so terms, callbacks, signals and hand-overs are,
too. There is no other clock and no lost reply, so an end that was published is an end.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

from redis.connection import Connection

from django_leader.protocol.config import ValidConfig
from django_leader.protocol.hold import DELAY
from django_leader.protocol.records import (
    NO_PRECONDITIONS,
    Answer,
    ElectionStatus,
    Event,
    LeaderInfo,
    Preconditions,
    instance_of,
    utc_now,
)
from django_leader.redis.connector import Connect
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.waker import Waker

MOST_EVENTS = 1000


class Local:
    """What this process knows of one election, in place of Redis. A forked child begins with nothing."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Discard all that is known. Local."""
        self.pid = os.getpid()
        self.lock = threading.Lock()
        # Under the lock:
        self.token = 0
        self.holder, self.until = "", 0.0
        """The candidacy that leads, and the instant at which its lease ends; if none leads, at which the hold ends."""
        self.info: LeaderInfo | None = None
        self.duration, self.clocks = 0.0, ""
        """Of a hold: how long it lasts, and what the clocks showed when it began."""
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)

    def __call__(self, timeout: float) -> Connection:
        """Raise ``OSError``: there is nothing to connect to."""
        raise OSError("LOCAL is True: this election does not use Redis")


def open_lease(connect: Connect, config: ValidConfig, waker: Waker | None = None) -> Lease:
    """Return the operations of one candidate or question, at Redis or within this process. Local."""
    return LocalLease(connect, config, waker) if isinstance(connect, Local) else Lease(connect, config, waker)


class LocalLease(Lease):
    """The operations of ``Lease``, within this process. Each is local, never raises, and has no cost to speak of."""

    def __init__(self, local: Local, config: ValidConfig, waker: Waker | None = None) -> None:
        super().__init__(local, config, waker)
        if local.pid != os.getpid():  # no thread may be left to release the lock
            local.forget()
        self._local, self._waker = local, waker

    def campaign(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> Answer:
        """Lead, unless another candidacy of this process leads, or a hold goes on."""
        local, now = self._local, clock.now()
        with local.lock:
            if preconditions.unrecorded_end[0]:
                self._remember(preconditions.unrecorded_end[1], candidate_id, preconditions.unrecorded_end[0])
            if local.holder != candidate_id and now < local.until:
                return self._answer("held", now)
            local.token = max(local.token + 1, preconditions.highest_token + 1, time.time_ns() // 1000)
            local.holder, local.until = candidate_id, now + self._timing.ttl
            self._describe(info)
            self._remember("elected", candidate_id, local.token)
            return self._answer("granted", now)

    def renew(
        self,
        candidate_id: str,
        token: int,
        info: LeaderInfo,
        preconditions: Preconditions = NO_PRECONDITIONS,
        *,
        confirm: bool = False,
    ) -> Answer:
        """Renew the lease of the term ``token``."""
        local, now = self._local, clock.now()
        with local.lock:
            if (local.holder, local.token) != (candidate_id, token):
                return self._answer("refused", now)
            local.until = now + self._timing.ttl
            self._describe(info)
            return self._answer("renewed", now)

    def release(
        self,
        candidate_id: str,
        token: int,
        reason: str,
        preconditions: Preconditions = NO_PRECONDITIONS,
        *,
        leave: bool,
        hold: float = 0,
        clocks: str = "",
        deadline: float = 0.0,
    ) -> bool:
        """Give the term ``token`` back. Return whether there was one."""
        local = self._local
        with local.lock:
            if (local.holder, local.token) != (candidate_id, token):
                return False
            local.holder, local.until, local.duration, local.clocks = "", clock.now() + hold, hold, clocks
            self._remember(reason, candidate_id, token)
            return True

    def status(self) -> ElectionStatus:
        """Return what this process knows: nothing of the others."""
        local = self._local
        with local.lock:
            left = max(0.0, local.until - clock.now())
            leader = local.info if local.holder and left else None
            return ElectionStatus(leader, left, local.token, int(leader is not None))

    def history(self, limit: int) -> list[Event]:
        """Return the newest changes in this process."""
        with self._local.lock:
            return list(self._local.events)[::-1][:limit]

    def wait(self, candidate_id: str, *, wake: bool, until: float, exact: bool = True) -> dict[str, Any] | None:
        """Wait until the instant ``until``, or for the waker. Return None."""
        assert self._waker
        self._waker.wait(until - clock.now())
        return None

    def poll(
        self, candidate_id: str, highest_token: int, until: float | None = None, *, wake: bool = True
    ) -> Answer | None:
        """Return None: a campaign tells as much."""
        return None

    def prepare(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> None:
        """Do nothing: there is no request to pack."""

    def prepare_release(self, candidate_id: str, token: int, reason: str, preconditions: Preconditions) -> None:
        """Do nothing: there is no request to pack."""

    def server(self) -> dict[str, str]:
        """Return nothing: there is no server."""
        return {}

    def _answer(self, verdict: str, now: float) -> Answer:
        local = self._local
        led = bool(local.holder)
        kind, duration, process = ("lease:", self._timing.ttl, "") if led else (DELAY, local.duration, local.clocks)
        version = f"{kind}{local.token}:{local.until}"
        return Answer(
            verdict, local.token, local.holder, local.until - now, int(led), "", now, version, duration, process
        )

    def _describe(self, info: LeaderInfo) -> None:
        self._local.info = replace(info, last_heartbeat=utc_now(), fencing_token=self._local.token)

    def _remember(self, kind: str, candidate_id: str, token: int) -> None:
        self._local.events.append(Event(utc_now(), kind, instance_of(candidate_id), token))
