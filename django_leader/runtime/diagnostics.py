"""Warnings about one candidacy for the operator, in the log: each one once, with what to do about it.

NOT guaranteed here: that everything is noticed. This module uses what a candidate sees anyway, and asks the server once
how it is configured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

from django_leader.protocol.config import FINGERPRINT_LENGTH, ValidConfig
from django_leader.protocol.machine import State, Term
from django_leader.protocol.orders import Order
from django_leader.protocol.records import Answer, printable
from django_leader.protocol.requests import SERVER_TIMER
from django_leader.protocol.template import GarbledReply
from django_leader.redis.channel import Refused
from django_leader.system import clock, starvation
from django_leader.system.log import LONGEST, log, way_to
from django_leader.texts import Text

from .hooks import Hooks

LATE = 0.5
"""Part of the heartbeat interval. A heartbeat that is late by more than this was delayed by more than the jitter of a
busy host."""
MAX_DUPLICATES = 10
"""Warnings of another process with the same instance id, at most. Any program that writes to Redis can make up any
number of them."""
PAUSE = 60.0
"""Seconds between two warnings of a quarantine, because a replica that joins again and again causes many."""


class Outage(NamedTuple):
    """What to say of one kind of outage: at its beginning, of what follows, and at its end."""

    begins: str
    follows: str
    ends: str


UNREACHABLE = Outage(
    "Redis is unreachable", "No leader can be elected until it is reachable again", "Redis is reachable again"
)
REFUSED = Outage(
    "Redis refused a request of the election",
    "This process cannot be elected until Redis accepts it",
    "Redis accepts the requests of the election again",
)
GARBLED = Outage(
    "Redis answers, but not what it was asked for",
    "This process cannot be elected until the replies are those to its requests",
    "Redis answers what it is asked for again",
)
TOO_FEW_REPLICAS = Outage(
    "too few replicas answer", "No leader can be elected until more of them answer", "enough replicas answer again"
)
UNEXPECTED = Outage(
    "an error keeps this process from asking Redis",
    "This process cannot be elected until that is over",
    "this process can ask Redis again",
)


class Diagnostics(Hooks):
    """The warnings of one candidacy. Local, any thread; never raises."""

    def __init__(
        self,
        label: str,
        config: ValidConfig,
        about: dict[str, str] | None = None,
        pass_on: Callable[[Order], object] = lambda order: None,
    ) -> None:
        self.label, self._config, self._about, self._pass_on = label, config, about, pass_on
        self._duplicates: set[str] = set()
        self._shared = False
        self._due, self._rested = clock.now(), True
        self._measured = -math.inf
        self._term: Term | None = None
        self._counts: starvation.Counts | None = None
        self._late = (0, set[str]())
        self._delayed: tuple[float, float, str] | None = None
        """What is to be logged of a late heartbeat, until it has left."""
        self._quarantine, self._told_at = "", -math.inf
        self._outage = UNREACHABLE
        self.outage = ""
        """Why Redis could not be asked at the last attempt; empty if it answered."""
        self.delay = 0.0
        """Seconds by which the election thread was late for the last request that was due."""

    def failed(self, error: BaseException | str, *, unexpected: bool = False) -> None:
        """Record that Redis could not be used. Warn if it could before."""
        known, text = self.outage, type(error).__name__ if unexpected else str(error)
        self.outage = printable(text, LONGEST)
        if not known:
            self._outage = UNEXPECTED if unexpected else _kind_of(error)
            hint = f" Unexpected error: {way_to(error)}." if unexpected and isinstance(error, BaseException) else ""
            self._warn(
                "%s (%s). %s; the application is not affected, and the election recovers by itself.%s",
                self._outage.begins,
                self.outage,
                self._outage.follows,
                hint,
            )

    def answered(self, answer: Answer) -> None:
        """Record that Redis has answered. Warn if it could not be asked before, and of a quarantine."""
        if self.outage:
            self.outage = ""
            self._warn("%s", self._outage.ends)
        quarantined = answer.verdict == "quarantined" and self._quarantine != answer.version
        if quarantined and clock.now() >= self._told_at + PAUSE:
            self._quarantine, self._told_at = answer.version, clock.now()
            self._warn(
                "Redis is new, has lost data of this election or (with MIN_REPLICAS) has one more replica, so it may "
                "not know a lease that is still valid: no leader is elected for up to %.1f s (QUARANTINE). The "
                "newest 'quarantined' event has the reason: call history() of the election, for example in manage.py "
                "shell.",
                answer.duration,  # not what remains by the server's clock: a newcomer watches the whole quarantine
            )

    def turn_ended(self, state: State, wait: float) -> None:
        """Record that the election thread has finished a turn and waits for ``wait`` seconds before the next. Local."""
        # A request that is due may take several turns: a renewal, and then the question for its replicas.
        self._due = math.inf if state.ended or state.next_at == self._measured else state.next_at
        self._term, self._rested = state.term, wait > 0
        # Only for a leader is there a warning why it is late. The counts would cost a follower a tenth of its CPU.
        if not self._term:
            self._counts = None
        elif not self._counts:
            self._counts = starvation.read_counts(late=False)
        # Behind the heartbeat, which a log handler may delay even more.
        if wait > 0 and (delayed := self._delayed):
            self._delayed = None
            self._warn("a heartbeat is %.1f s late; %.1f s of the lease are left. %s.", *delayed)

    def turn_began(self) -> None:
        """Record that the election thread begins a turn. If a request is due, measure how late it is. Local."""
        late = clock.now() - self._due
        if late < 0:
            return
        self._measured = self._due
        self.delay = late if self._term else max(0.0, late - 2 * SERVER_TIMER)
        if not self._term:
            return
        too_late = late > LATE * self._config.timing.heartbeat
        before, self._counts = self._counts, starvation.read_counts(late=too_late)
        if not too_late:
            return
        if self._late[0] != self._term.token:
            self._late = (self._term.token, set())
        cause, advice = starvation.explain(before, self._counts, late, rested=self._rested)
        if cause not in self._late[1]:
            self._late[1].add(cause)
            left = max(0.0, self._term.deadline - clock.now())
            self._delayed = late, left, advice

    def wait_refused(self, error: BaseException) -> None:
        """Note that this process does not wait at Redis for now, and what that means."""
        log(logging.INFO, "%s: BLPOP was refused or failed (%s); a hand-over may take longer", self.label, error)

    def duplicate(self, other: str) -> None:
        """Warn that the candidacy ``other`` has the same instance id."""
        if other not in self._duplicates and len(self._duplicates) < MAX_DUPLICATES:
            self._duplicates.add(other)
            self._warn(
                "another process is a candidate with the same instance id, %r. Only one of them can lead at a time, "
                "but they cannot be told apart: give each process an INSTANCE_ID of its own, or none.",
                self._config.instance_id,
            )

    def project(self, other: str) -> None:
        """Warn, once, that a candidate of the project ``other`` participates, if that is not our project."""
        if not self._shared and other not in self._config.projects:
            self._shared = True
            self._warn("%s", shared_key(other, self._config))

    def ordered(self, order: Order) -> None:
        """Pass an order on to the thread that carries it out."""
        self._pass_on(order)

    def server(self, info: dict[str, str]) -> None:
        """Warn of the server's configuration, as its ``INFO`` says it."""
        for advice in server_warnings(info, self._config.min_replicas):
            self._warn("%s", advice)

    def _warn(self, text: str, *args: object) -> None:
        log(logging.WARNING, f"%s: {text}", self.label, *args, extra=self._about)


def _kind_of(error: BaseException | str) -> Outage:
    if isinstance(error, str):  # the session says so, whose requests were answered
        return TOO_FEW_REPLICAS
    if isinstance(error, GarbledReply):
        return GARBLED
    return REFUSED if isinstance(error, Refused) else UNREACHABLE


def shared_key(other: str, config: ValidConfig) -> Text:
    """Return the warning for a candidate that is of the project ``other``, and not of ours. Pure."""
    return Text(
        "another project participates in this election (fingerprint %(theirs)r; ours is %(ours)r). Both use the key "
        "%(key)r in one Redis database, so one leader is elected among all their processes. Give each project a "
        "REDIS_KEY_NAME and a REDIS_INFO_KEY_NAME of its own.",
        theirs=other[:FINGERPRINT_LENGTH],
        ours=config.projects[0],
        key=config.keys.lock,
    )


def server_warnings(info: dict[str, str], min_replicas: int) -> list[str]:
    """Return the warnings for which a server's ``INFO`` gives reason. Pure."""
    found = []
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        found.append(
            f"Redis evicts keys when its memory is full (maxmemory-policy {policy}), including those of the election. "
            "This cannot produce two leaders, but no leader may be elected for a QUARANTINE: give the election a "
            "server with the policy noeviction."
        )
    replicas = info.get("connected_slaves", "0")
    if replicas != "0" and not min_replicas:
        found.append(
            f"Redis has replicas ({replicas}), and a failover to a replica that does not have the lease yet can "
            "produce two leaders at a time. Set MIN_REPLICAS to half of the replicas or more."
        )
    return found
