"""The election's operations at Redis: one method, one script, one round trip.

NOT guaranteed here: that an operation which raised was not executed. ``RedisUnavailable`` means that its outcome is
unknown, and the connection is closed by then. Each script documents its guarantees at its top.

- A reply is the answer to its own request (``runner``).
- With ``MIN_REPLICAS``, a grant or a renewal that fewer replicas have is an error, too.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import requests
from django_leader.protocol.config import ValidConfig, inbox
from django_leader.protocol.records import (
    NO_PRECONDITIONS,
    Answer,
    ElectionStatus,
    Event,
    LeaderInfo,
    Preconditions,
    instance_of,
    parse_number,
    utc_now,
)
from django_leader.protocol.requests import Packed
from django_leader.system import clock
from django_leader.system.waker import Waker

from .channel import SERVER_TIMER, Channel, ConnectionClosed, blpop_seconds
from .connector import Connect
from .limits import TooLong
from .runner import Runner

YIELD = 0.003
"""Seconds for which a process that has released its lease leaves the processors to the candidate that it has woken. On
two processors a hand-over was measured to take a fifth less."""
MOST_EVENTS = 2000
"""Events of the history that are read, at most. The scripts keep a thousand, and up to a hundred more."""
DENIED = (
    ". The Redis user lacks a right that the election needs on its keys {!r}, {!r} and '{}*'. "
    "'manage.py leader_status --acl' prints the command that grants it"
)
MOST_MESSAGES = 100
"""How many messages are collected at a time: more than all senders send within a heartbeat."""


class Lease:
    """The operations of one election at Redis, on one connection, for one thread at a time."""

    def __init__(self, connect: Connect, config: ValidConfig, waker: Waker | None = None) -> None:
        self._timing, self._keys = config.timing, config.keys
        self.process = ""
        """What a grant publishes of this process. If it is empty, the death of this process does not let another
        candidate take over. The next heartbeat publishes a change."""
        self._published = ""
        self._polled = False
        if_denied = DENIED.format(*self._keys[:2], self._keys.wake.removesuffix("wake"))
        self.channel = Channel(connect, self._timing.operation, waker, if_denied)
        self._runner = Runner(self.channel)

    def campaign(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> Answer:
        """Attempt once to lead, and publish ``info`` with the current time.

        One round trip, two with ``MIN_REPLICAS``. Raise ``RedisUnavailable``.
        """
        request = self._prepared_campaign(candidate_id, preconditions, info)
        at = _iso(info.started_at or utc_now())
        values = (_digits(preconditions.not_after * 1000, 13), at, at)
        answer = self._parsed("campaign", self._runner.send("campaign", request, *values))
        self._published = self.process
        return self._replicated(answer)

    def prepare(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> None:
        """Pack this campaign, so that it can leave at once, at any later time. Local.

        Connect if there is no connection, and raise ``RedisUnavailable`` if that fails.
        """
        self._prepared_campaign(candidate_id, preconditions, info)

    def poll(
        self, candidate_id: str, highest_token: int, until: float | None = None, *, wake: bool = True
    ) -> Answer | None:
        """Poll a lease that another candidate holds. Errors as of ``campaign``.

        One round trip, in which a wait until the instant ``until`` can begin: see ``wait``. Return None when only a
        campaign can tell: the state is not plainly such a lease, or older than ``highest_token``, or there is no open
        connection, or it was closed meanwhile. A poll may be the first script on a new connection: it grants nothing.
        """
        answer = None
        if self.channel.connected:
            with contextlib.suppress(ConnectionClosed):
                answer = self._lean_poll(candidate_id, until, wake=wake)
        return answer if answer and answer.token >= highest_token else None

    def renew(
        self,
        candidate_id: str,
        token: int,
        info: LeaderInfo,
        preconditions: Preconditions = NO_PRECONDITIONS,
        *,
        confirm: bool = False,
    ) -> Answer:
        """Send the heartbeat of the term ``token``, or confirm its grant. Cost and errors as of ``campaign``.

        It costs one round trip more when the state in Redis is not plainly the leader's own. Of ``preconditions`` only
        the acknowledged version and ``not_after`` are used.
        """
        lean = self.channel.connected and not confirm and self._published == self.process
        if lean:
            with contextlib.suppress(ConnectionClosed):
                if answer := self._renew(candidate_id, token, info):
                    return self._replicated(answer)
        arguments = requests.reclaim_arguments(
            self._timing, candidate_id, token, info, preconditions, self.process, confirm=confirm
        )
        answer = self._parsed("reclaim", self._runner.run("reclaim", self._keys, *arguments))
        self._published = self.process
        return self._replicated(answer)

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
        """Give the term ``token`` back, and with ``leave`` end the candidacy. One round trip.

        It takes a second one if the server refused the request as too old, because its clock was set since the last
        answer, or because the request was slow. The request is then sent again, to be executed before the instant
        ``deadline`` at which the lease ends (0: not again). Of ``preconditions`` only the highest token, the
        acknowledged version and ``not_after`` are used. ``hold``: seconds for which no candidate may lead yet.
        ``clocks``: what the clocks of this host show, so that a process that starts later can tell when the hold is
        over; without them it has to watch the hold for its whole duration.

        Return whether there was a lease of ours to give back: False if a request whose reply was lost has given it back
        already. Raise ``RedisUnavailable``.
        """
        request = self._prepared_release(
            candidate_id, token, reason, preconditions, leave=leave, hold=hold, clocks=clocks
        )
        not_after, pause = _digits(preconditions.not_after * 1000, 13), YIELD if token and not hold else 0.0
        reply = self._runner.send("release", request, not_after, pause=pause)
        if b"\nlate\n" in reply and (left := deadline - clock.now()) > 0:
            # The first request was executed before now, so at the deadline the server's clock shows this or more.
            at = self._parsed("release", reply).at
            reply = self._runner.send("release", request, _digits((at + left) * 1000, 13))
        return reply.endswith(b"released")

    def prepare_release(self, candidate_id: str, token: int, reason: str, preconditions: Preconditions) -> None:
        """Pack this release, so that it can leave at once. Local. Connection and errors as of ``prepare``."""
        self._prepared_release(candidate_id, token, reason, preconditions, leave=False, hold=0, clocks="")

    def status(self) -> ElectionStatus:
        """Return who leads. One round trip. Raise ``RedisUnavailable``."""
        with self._reading("status"):
            _, holder, left, info, token, candidates, kind = self._runner.run("status", self._keys)
            leader = (
                LeaderInfo.from_json(requests.decode(info), instance_of(requests.decode(holder))) if holder else None
            )
            quarantined = kind == b"quarantine" and not leader and left > 0
            return ElectionStatus(
                leader, left / 1000, parse_number(requests.decode(token)), int(candidates), quarantined
            )

    def history(self, limit: int) -> list[Event]:
        """Return the newest ``limit`` changes, the newest first. Redis keeps about a thousand.

        One round trip. Raise ``RedisUnavailable``.
        """
        if limit <= 0:
            return []
        with self._reading("history"):
            _, *texts = map(requests.decode, self._runner.run("history", self._keys, min(limit, MOST_EVENTS)))
            return [Event.from_texts(*entry) for entry in zip(*[iter(texts)] * 5, strict=False)]

    def server(self) -> dict[str, str]:
        """Return the server's configuration, as far as it tells. Two round trips. Raise ``RedisUnavailable``."""
        with self._reading("INFO"):
            sections = (self.channel.call("INFO", section) for section in ("memory", "replication"))
            lines = (line.partition(":") for text in sections for line in requests.decode(text).splitlines())
            return {name: value for name, _, value in lines}

    def post(self, to: str, message: dict[str, Any]) -> None:
        """Put a message into the inbox of the candidacy ``to``. One round trip. Raise ``RedisUnavailable``.

        Rarely the message arrives twice (see ``runner``), so a receiver must do the same for two as for one.
        """
        lifetime = math.ceil(self._timing.ttl * 1000)
        self._runner.run("post", (inbox(self._keys, to),), json.dumps(message), lifetime)

    def collect(self, candidate_id: str) -> list[dict[str, Any]]:
        """Take the waiting messages to ``candidate_id``. One round trip. Raise ``RedisUnavailable``.

        If a message is too long, it and those behind it are lost: see ``collect.lua``.
        """
        limits = MOST_MESSAGES, requests.LONGEST_MESSAGE
        with self._reading("collect"):
            _, *messages = self._runner.run("collect", (inbox(self._keys, candidate_id),), *limits)
            return [requests.parse_message(text) for text in messages]

    def wait(self, candidate_id: str, *, wake: bool, until: float, exact: bool = True) -> dict[str, Any] | None:
        """Wait for a message to ``candidate_id``, and with ``wake`` for a wake-up, until the instant ``until``.

        Return the message, ``{"wake": True}`` for a wake-up, or None when the wait ended otherwise. A wait that a poll
        has begun goes on. Unless it is to be ``exact``, it may end 0.2 s late. Raise ``RedisUnavailable``, also for a
        message that is too long; up to 100 waiting messages are then taken out of the inbox and dropped.
        """
        try:
            element = self.channel.wait(self._waiting(candidate_id, wake=wake), until, exact=exact)
        except RedisUnavailable as error:
            if isinstance(error.__context__, TooLong):
                with contextlib.suppress(RedisUnavailable):
                    self.collect(candidate_id)
            raise
        if element is None:
            return None
        key, value = element
        return {"wake": True} if key.decode() == self._keys.wake else requests.parse_message(value)

    def _parsed(self, name: str, reply: bytes) -> Answer:
        with self._reading(name):
            return requests.parse(reply)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Raise ``RedisUnavailable`` for a reply that is not of the kind that the script ``name`` gives."""
        try:
            yield
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise self._runner.not_ours(name) from error

    def _replicated(self, answer: Answer) -> Answer:
        if self._timing.replicas and answer.verdict in ("granted", "renewed"):
            self._confirmed()
        return answer

    def _confirmed(self) -> None:
        """Wait until enough replicas have the last write. Raise ``RedisUnavailable`` if they do not get it."""
        # The server's timer may be late, and a reply that comes after our timeout would end the connection.
        patience = max(1, math.floor((self._timing.operation - SERVER_TIMER) * 1000))
        have = self.channel.call_after("WAIT", self._timing.replicas, patience)
        if have < self._timing.replicas:
            text = f"{have} of {self._timing.replicas} replicas (MIN_REPLICAS) have confirmed the lease"
            raise RedisUnavailable(text)

    def _renew(self, candidate_id: str, token: int, info: LeaderInfo) -> Answer | None:
        """Send the lean renewal; return None if the script was unsure."""

        def packed() -> Packed:
            sha = self._runner.script("renew").sha
            return requests.packed_heartbeat(
                self.channel.pack, sha, self._keys, self._timing, candidate_id, token, info
            )

        reply = self._runner.send("renew", self._runner.prepared("renew", token, packed), _iso(utc_now()), once=True)
        with self._reading("renew"):
            return requests.parse_renewed(reply, candidate_id, token, self._timing)

    def _lean_poll(self, candidate_id: str, until: float | None, *, wake: bool) -> Answer | None:
        """Send the lean poll; return None if the script was unsure."""

        def packed() -> Packed:
            sha = self._runner.script("poll").sha
            return requests.packed_poll(self.channel.pack, sha, self._keys, self._timing, candidate_id)

        # The first time the server may not know the script. The poll must then be sent again, while the BLPOP behind it
        # would still be queued and take our element.
        request, until = self._runner.prepared("poll", candidate_id, packed), until if self._polled else None
        wait = (
            b"" if until is None else self._waiting(candidate_id, wake=wake).filled(blpop_seconds(until - clock.now()))
        )
        reply = self._runner.send("poll", request, wait=wait, until=until, once=True)
        self._polled = True
        return None if reply.endswith(b"\nunsure") else self._parsed("poll", reply)

    def _prepared_campaign(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> Packed:
        def packed() -> Packed:
            sha, pack = self._runner.script("campaign").sha, self.channel.pack
            return requests.packed_campaign(
                pack, sha, self._keys, self._timing, candidate_id, preconditions, info, self.process
            )

        return self._runner.prepared(
            "campaign", (candidate_id, preconditions._replace(not_after=0.0), self.process), packed
        )

    def _prepared_release(
        self, candidate_id: str, token: int, reason: str, preconditions: Preconditions, **how: Any
    ) -> Packed:
        def packed() -> Packed:
            sha, pack = self._runner.script("release").sha, self.channel.pack
            said = (self._keys, self._timing, candidate_id, token, reason, preconditions)
            return requests.packed_release(pack, sha, *said, **how)

        same = (
            candidate_id,
            token,
            reason,
            preconditions.highest_token,
            requests.reclaimed(preconditions.acknowledged_version),
            how,
        )
        return self._runner.prepared("release", same, packed)

    def _waiting(self, candidate_id: str, *, wake: bool) -> Packed:
        keys = [inbox(self._keys, candidate_id), self._keys.wake][: 1 + wake]
        return self._runner.prepared(
            f"wait {wake}", candidate_id, lambda: requests.packed_wait(self.channel.pack, keys)
        )


def _iso(at: datetime) -> bytes:
    return at.isoformat(timespec="microseconds").encode()


def _digits(number: float, length: int) -> bytes:
    return b"%0*d" % (length, number)
