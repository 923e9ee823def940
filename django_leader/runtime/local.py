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

from redis.connection import Connection

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import MOST_REPLICAS, ValidConfig
from django_leader.protocol.hold import DELAY
from django_leader.protocol.records import ElectionStatus, Event, LeaderInfo, instance_of, utc_now
from django_leader.protocol.template import Request
from django_leader.redis.connector import Connect
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.waker import Waker

from .local_slots import LocalSlots

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
        self.slots = LocalSlots()

    def __call__(self, timeout: float) -> Connection:
        """Raise ``OSError``: there is nothing to connect to."""
        raise OSError("LOCAL is True: this election does not use Redis")


def open_lease(connect: Connect, config: ValidConfig, waker: Waker | None = None) -> Lease:
    """Return the operations of one candidate or question, at Redis or within this process. Local."""
    return LocalLease(connect, config, waker) if isinstance(connect, Local) else Lease(connect, config, waker)


class LocalLease(Lease):
    """The operations of ``Lease``, within this process. Each is local and has no cost to speak of.

    It does what the scripts do, with the words that they are given. There is never a connection, so neither a lean
    renewal nor a poll is sent.
    """

    def __init__(self, local: Local, config: ValidConfig, waker: Waker | None = None) -> None:
        super().__init__(local, config, waker)
        if local.pid != os.getpid():  # no thread may be left to release the lock
            local.forget()
        self._local, self._waker, self._ttl = local, waker, config.timing.ttl
        self._scripts = {
            "campaign": self._campaign,
            "reclaim": self._reclaim,
            "release": self._release,
            "claim": self._claim,
            "finish": lambda candidate_id, *ends: local.slots.finish(ends),
            "once": self._once,
        }

    def send(self, request: Request, wait: Request | None = None, until: float = 0.0) -> bytes | int:
        """Do what the script of ``request`` does. Raise ``RedisUnavailable`` for any other request."""
        if request.template.name == "WAIT":
            return MOST_REPLICAS  # there is nothing that a replica could lack
        script = self._scripts.get(request.template.name)
        if script is None:
            raise RedisUnavailable("LOCAL is True: this election does not use Redis")
        count, *words = (word.decode() for word in request.words(b""))
        with self._local.lock:
            return script(*words[int(count) + 1 :])

    def wait(self, request: Request, until: float, *, exact: bool = True) -> None:
        """Wait until the instant ``until``, or for the waker."""
        assert self._waker
        self._waker.wait(until - clock.now())

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
            return list(self._local.events)[::-1][: max(limit, 0)]

    def _campaign(self, candidate_id: str, highest_token: str, *words: str) -> bytes:
        *_, info, _, _, ended, reason, _, _, _ = words
        local, now = self._local, clock.now()
        if int(ended):
            self._remember(reason, candidate_id, int(ended))
        if local.holder != candidate_id and now < local.until:
            return self._answer("held", now)
        local.token = max(local.token + 1, int(highest_token) + 1, time.time_ns() // 1000)
        local.holder, local.until = candidate_id, now + self._ttl
        self._describe(info)
        self._remember("elected", candidate_id, local.token)
        return self._answer("granted", now)

    def _reclaim(self, candidate_id: str, token: str, *words: str) -> bytes:
        local, now = self._local, clock.now()
        if (local.holder, local.token) != (candidate_id, int(token)):
            return self._answer("refused", now)
        local.until = now + self._ttl
        self._describe(words[5])
        return self._answer("renewed", now)

    def _release(self, candidate_id: str, *words: str) -> bytes:
        *_, token, reason, _, delay, _, clocks = words
        local = self._local
        if (local.holder, local.token) != (candidate_id, int(token)):
            return b"\nnothing"
        duration = int(delay) / 1000
        local.holder, local.until, local.duration, local.clocks = "", clock.now() + duration, duration, clocks
        self._remember(reason, candidate_id, int(token))
        return b"\nreleased"

    def _claim(self, candidate_id: str, token: str, *words: str) -> bytes:
        _, _, began, *claims = words
        local = self._local
        leads = (local.holder, local.token) == (candidate_id, int(token)) and clock.now() < local.until
        return local.slots.claim(time.time_ns() // 1_000_000, int(began), claims, leads=leads)

    def _once(self, process: str, not_after: str, *claim: str) -> bytes:
        now, (*what, grace, _) = time.time_ns() // 1_000_000, claim
        return self._local.slots.claim(now, now, (*what, grace, "skip", "0", "0"), leads=True)

    def _answer(self, verdict: str, now: float) -> bytes:
        local = self._local
        led = bool(local.holder)
        kind, duration, process = ("lease:", self._ttl, "") if led else (DELAY, local.duration, local.clocks)
        left, at, lasts = (round(seconds * 1000) for seconds in (local.until - now, time.time(), duration))
        version = f"{kind}{local.token}:{local.until}"
        words = "", verdict, local.token, left, int(led), at, version, lasts, at, "", process, local.holder
        return "\n".join(map(str, words)).encode()

    def _describe(self, info: str) -> None:
        described = LeaderInfo.from_json(info, instance_of(self._local.holder))
        self._local.info = replace(described, last_heartbeat=utc_now(), fencing_token=self._local.token)

    def _remember(self, kind: str, candidate_id: str, token: int) -> None:
        self._local.events.append(Event(utc_now(), kind, instance_of(candidate_id), token))
