"""What the operator is told of one candidacy, in the log: each thing once, with what to do about it.

NOT guaranteed here: that everything is noticed. This looks at what a candidate sees anyway, and asks the server once
how it is configured.
"""

from __future__ import annotations

import logging
import math

from . import clock
from .config import Config
from .log import log
from .records import Answer

LATE = 0.5
"""Of the heartbeat interval: a beat that is later than this has been held up by more than the jitter of a busy host."""
PAUSE = 60.0
"""Seconds between two warnings of a quarantine: a replica that joins again and again makes many."""


class Advice:
    """For one candidacy. Local, any thread; never raises."""

    def __init__(self, label: str, config: Config) -> None:
        self.label, self._config = label, config
        self._twins: set[str] = set()
        self._late = 0
        self._quarantine, self._told_at = "", -math.inf
        self.outage = ""
        """Why Redis could not be asked when it was last tried; empty when it answered."""

    def failed(self, error: Exception, *, unexpected: bool) -> None:
        """Redis could not be asked."""
        known, self.outage = self.outage, str(error) or type(error).__name__
        if not known:
            self._warn(
                "Redis cannot be asked (%s). Nobody can be elected until it can; the application is not affected, and "
                "the election goes on by itself.",
                error, exc_info=unexpected,
            )  # fmt: skip

    def answered(self, answer: Answer) -> None:
        """Redis has answered. Told of a quarantine, too."""
        if self.outage:
            self.outage = ""
            self._warn("Redis answers again")
        quarantined = answer.verdict == "quarantined" and self._quarantine != answer.version
        if quarantined and clock.now() >= self._told_at + PAUSE:
            self._quarantine, self._told_at = answer.version, clock.now()
            self._warn(
                "Redis is new, has lost data of this election or (with MIN_REPLICAS) has one more replica, so a lease "
                "may go on of which it does not know: nobody is elected for another %.1f s (QUARANTINE). The history "
                "says why.",
                max(answer.remaining, 0.0),
            )

    def beat(self, late: float, left: float, term: int) -> None:
        """A heartbeat is due since ``late`` seconds, and so many are left of the lease. ``term``: its token."""
        if late > LATE * self._config.timing.heartbeat and self._late != term:
            self._late = term
            self._warn(
                "a heartbeat is %.1f s late; %.1f s are left of the lease. This process got no CPU in time: look for "
                "calls that hold the GIL, requests that do not yield (gevent), for too few CPUs, or raise LOCK_TTL.",
                late, left,
            )  # fmt: skip

    def twin(self, other: str) -> None:
        """The candidacy ``other`` has the same instance id."""
        if other not in self._twins:
            self._twins.add(other)
            self._warn(
                "another process takes part as %r, too. Only one of them can lead at a time, but nobody can tell them "
                "apart: give each process an INSTANCE_ID of its own, or none.",
                self._config.instance_id,
            )

    def server(self, info: dict[str, str]) -> None:
        """How the server is configured, as it says itself."""
        for advice in of_server(info, self._config.min_replicas):
            self._warn("%s", advice)

    def _warn(self, text: str, *args: object, exc_info: bool = False) -> None:
        log(logging.WARNING, f"%s: {text}", self.label, *args, exc_info=exc_info)


def of_server(info: dict[str, str], min_replicas: int) -> list[str]:
    """What a server's ``INFO`` gives reason to say. Pure."""
    found = []
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        found.append(
            f"Redis evicts keys when its memory is full (maxmemory-policy {policy}), those of the election, too. "
            "Nobody leads twice by it, but nobody may be elected for a QUARANTINE: give the election a server with "
            "the policy noeviction."
        )
    replicas = info.get("connected_slaves", "0")
    if replicas != "0" and not min_replicas:
        found.append(
            f"Redis has replicas ({replicas}), and a failover to one that does not know the lease yet can make two "
            "processes lead at a time. Set MIN_REPLICAS, to half of the replicas or more."
        )
    return found
