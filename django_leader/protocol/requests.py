"""The requests of a candidate: the words that its scripts are given. No I/O.

NOT guaranteed here: any property of the election. The scripts document what they do with the words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from . import replies
from .config import LONGEST_DURATION, ValidConfig, inbox, lifetime
from .records import Answer, LeaderInfo, Preconditions
from .template import Request, Template, command, script

TIME = b"\1" * 32
"""The placeholder for a wall time."""
NOT_AFTER = b"\2" * 13
"""The placeholder for the server's time after which the request is too old, in milliseconds."""
RECKONED = b"\4" * 13
"""The placeholder for what the candidate reckons the server's clock to show, in milliseconds."""
SECONDS = b"\3" * 12
"""The placeholder for the duration of a wait."""

SERVER_TIMER = 0.1
"""Seconds by which a blocking command may end late: Redis checks its clients ten times a second (``hz 10``)."""
LONGEST_WAIT = 3600.0
"""Seconds for which a command blocks, at most."""
REPLY_PAUSE = 0.003
"""Seconds after a release until its reply is read. Meanwhile the process leaves the processors to the candidate that it
has woken. On two processors a hand-over was measured to take a sixth longer without it."""
MOST_EVENTS = 2000
"""Events of the history that are read, at most. The scripts keep a thousand, and up to a hundred more."""
MOST_MESSAGES = 100
"""How many messages are collected at a time: more than all senders send within a heartbeat."""

Words = tuple[Any, ...]


class Requests:
    """The requests of one candidate. For one thread at a time.

    ``pid``: the process id that the candidate publishes of itself.
    """

    def __init__(self, config: ValidConfig, candidate_id: str = "", pid: int = 0) -> None:
        self._keys, self._timing, self._candidate_id = config.keys, config.timing, candidate_id
        project = "".join(config.projects[:1])
        self._info = LeaderInfo(config.instance_id, config.hostname, pid=pid, project=project)
        self._inbox = inbox(config.keys, candidate_id)
        self._last: dict[str, tuple[Any, Template]] = {}
        """By name, the template that was made last, and the content from which it was made."""

    def campaign(self, preconditions: Preconditions, process: str, now: datetime) -> Request:
        """Attempt once to lead. A grant publishes ``process``, and that the term began ``now``."""

        def make() -> Template:
            described = _described(self._info, "started_at", "last_heartbeat")
            who, what = self._who(preconditions.highest_token), self._what(described, process)
            known = *preconditions.unrecorded_end, *preconditions.dead, RECKONED
            words = *who, *what, preconditions.expired_version, *known
            return script("campaign", self._keys, words, replies.answer, (NOT_AFTER, TIME, TIME, RECKONED))

        template = self._kept("campaign", (preconditions._replace(not_after=0.0, reckoned=0.0), process), make)
        reckoned = _instant(preconditions.reckoned)
        return Request(template, (_instant(preconditions.not_after), _iso(now), _iso(now), reckoned))

    def poll(self) -> Request:
        """Poll a lease that another candidate holds. The answer is None if only a campaign can tell."""
        words = self._candidate_id, lifetime(self._timing)
        return Request(
            self._kept("poll", (), lambda: script("poll", self._keys[:4], words, replies.polled, once=True)),
        )

    def renew(self, token: int, since: datetime, now: datetime) -> Request:
        """Renew the term ``token``, which began ``since``. The answer is None if only a reclaim can tell."""

        def make() -> Template:
            info = replace(self._info, started_at=since, fencing_token=token)
            words = self._candidate_id, token, _milliseconds(self._timing.ttl), _described(info, "last_heartbeat")

            def parse(reply: bytes) -> Answer | None:
                return replies.renewed(reply, self._candidate_id, token, self._timing)

            return script("renew", (*self._keys[:3], self._inbox), words, parse, (TIME,), once=True)

        return Request(self._kept("renew", (token, since), make), (_iso(now),))

    def reclaim(
        self,
        token: int,
        since: datetime,
        now: datetime,
        preconditions: Preconditions,
        process: str,
        *,
        confirm: bool,
    ) -> Request:
        """Renew as ``renew`` does, and check everything; with ``confirm`` confirm the grant of the term."""
        described = _described(replace(self._info, started_at=since, last_heartbeat=now))
        known = preconditions.acknowledged_version, math.ceil(preconditions.began * 1000)
        words = *self._who(token), *self._what(described, process), int(confirm), *known
        template = script("reclaim", self._keys, words, replies.answer, (NOT_AFTER,))
        return Request(template, (_instant(preconditions.not_after),))

    def release(
        self,
        token: int,
        reason: str,
        preconditions: Preconditions,
        *,
        leave: bool = False,
        delay: float = 0.0,
        clocks: str = "",
    ) -> Request:
        """Give back the term ``token``, with a ``delay`` in seconds; with ``leave`` also end the candidacy.

        ``clocks``: what the clocks of this host show, so that a process that starts later can tell when the delay is
        over. The answer is True if there was such a term, False if not, and an ``Answer`` if the request came too late.
        """
        highest_token = max(preconditions.highest_token, token)
        version = preconditions.acknowledged_version
        # The version changes with every heartbeat, and a packed release would be of no use after the next one. The
        # script asks for it only if the state is a reclaimed one.
        version = version if version.startswith("reclaimed:") else ""
        milliseconds = math.ceil(min(delay, LONGEST_DURATION) * 1000)
        words = *self._who(highest_token), token, reason, int(leave), milliseconds, version, clocks
        pause = REPLY_PAUSE if token and not delay else 0.0
        template = self._kept(
            "release", words, lambda: script("release", self._keys, words, replies.released, (NOT_AFTER,), pause=pause)
        )
        return Request(template, (_instant(preconditions.not_after),))

    def wait(self, *, wake: bool) -> Request:
        """Wait for a message to this candidate, and with ``wake`` for a wake-up. The channel fills in the time."""
        words = ("BLPOP", *[self._inbox, self._keys.wake][: 1 + wake], SECONDS)
        return Request(self._kept(f"wait {wake}", (), lambda: command(words, self._parse_element, (SECONDS,))))

    def await_replicas(self) -> Request:
        """Wait until enough replicas have the last write. The answer is how many have it."""
        # The server's timer may be late, and a reply that comes after our timeout would end the connection.
        patience = max(1, math.floor((self._timing.operation - SERVER_TIMER) * 1000))
        return Request(command(("WAIT", self._timing.replicas, patience), int))

    def server(self, section: str) -> Request:
        """Ask for a section of the server's configuration."""
        return Request(command(("INFO", section), replies.server_info))

    def status(self) -> Request:
        """Ask who leads. The answer is an ``ElectionStatus``."""
        return Request(script("status", self._keys, (), replies.status))

    def history(self, limit: int) -> Request:
        """Ask for the newest ``limit`` events, the newest first."""
        return Request(script("history", self._keys, (min(limit, MOST_EVENTS),), replies.history))

    def post(self, to: str, message: dict[str, Any]) -> Request:
        """Put a message into the inbox of the candidacy ``to``."""
        words = json.dumps(message), math.ceil(self._timing.ttl * 1000)
        return Request(script("post", (inbox(self._keys, to),), words, lambda reply: None))

    def collect(self) -> Request:
        """Take the waiting messages. If one is too long, it and those behind it are lost: see ``collect.lua``."""
        words = MOST_MESSAGES, replies.LONGEST_MESSAGE
        return Request(script("collect", (self._inbox,), words, lambda reply: [*map(replies.message, reply[1:])]))

    def _kept(self, name: str, same: Any, make: Callable[[], Template]) -> Template:
        known = self._last.get(name)
        if known is None or known[0] != same:
            known = self._last[name] = same, make()
        return known[1]

    def _who(self, highest_token: int) -> Words:
        timing = self._timing
        return self._candidate_id, highest_token, math.ceil(timing.quarantine * 1000), timing.replicas, NOT_AFTER

    def _what(self, described: bytes, process: str) -> Words:
        return _milliseconds(self._timing.ttl), lifetime(self._timing), described, process

    def _parse_element(self, element: tuple[bytes, bytes] | None) -> dict[str, Any] | None:
        if element is None:
            return None
        key, value = element
        return {"wake": True} if key.decode() == self._keys.wake else replies.message(value)


def lasting(wait: Request, seconds: float) -> bytes:
    """Return a wait as it is sent, that lasts so long, at least, and at most an hour. Local."""
    # One more, because Redis cuts its clock to milliseconds.
    milliseconds = max(1, math.ceil(min(seconds, LONGEST_WAIT) * 1000) + 1)
    return wait._replace(values=(b"%012.3f" % (milliseconds / 1000),)).packed()


def _described(info: LeaderInfo, *times: str) -> bytes:
    """Return what is published of a leader, with placeholders for the ``times``."""
    fields = info.as_dict() | dict.fromkeys(times)
    if not info.fencing_token:
        del fields["fencing_token"]  # the script knows the token, and adds it
    text = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
    for name in map(str.encode, times):
        text = text.replace(b'"%s": null' % name, b'"%s": "%s"' % (name, TIME))
    return text


def _milliseconds(seconds: float) -> int:
    return math.floor(seconds * 1000)


def _instant(seconds: float) -> bytes:
    return b"%0*d" % (len(NOT_AFTER), seconds * 1000)


def _iso(at: datetime) -> bytes:
    return at.isoformat(timespec="microseconds").encode()
