"""The election's operations at Redis: one method, one script, one round trip.

NOT guaranteed here: that an operation which raised was not executed. ``RedisUnavailable`` means that its outcome is
unknown, and the connection is closed by then. What the scripts guarantee stands at the top of each.

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
from django_leader.protocol.config import Config, inbox
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
"""Seconds for which whoever has released leaves the processors to whoever is woken by it: on two of them a hand-over
was measured to take a fifth less."""
MOST_EVENTS = 2000
"""Of the history. The scripts keep a thousand, and up to a hundred more."""
DENIED = (
    ". The Redis user lacks a right that the election needs, whose keys are {!r}, {!r} and '{}*'. "
    "'manage.py leader_status --acl' prints the command that gives it"
)
MOST_MESSAGES = 100
"""How many messages are collected at a time: more than anybody sends within a heartbeat."""


class Lease:
    """Speaks to Redis about one election, on one connection, for one thread at a time."""

    def __init__(self, connect: Connect, config: Config, waker: Waker | None = None) -> None:
        self._timing, self._keys = config.timing, config.keys
        self.process = ""
        """What a grant publishes of this process; nothing, and its death lets nobody take over. The next heartbeat
        publishes what has changed."""
        self._published = ""
        self._polled = False
        if_denied = DENIED.format(*self._keys[:2], self._keys.wake.removesuffix("wake"))
        self.channel = Channel(connect, self._timing.operation, waker, if_denied)
        self._runner = Runner(self.channel)

    def campaign(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> Answer:
        """One attempt to lead, which publishes ``info`` with the time of now.

        One round trip, two with ``MIN_REPLICAS``. Raises ``RedisUnavailable``.
        """
        request = self._prepared_campaign(candidate_id, preconditions, info)
        at = _iso(info.started_at or utc_now())
        values = (_digits(preconditions.not_after * 1000, 13), at, at)
        answer = self._parsed("campaign", self._runner.send("campaign", request, *values))
        self._published = self.process
        return self._replicated(answer)

    def prepare(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> None:
        """Packs the campaign that says this, so that it can leave at once, at whatever time. Local.

        Connects if there is no connection, and raises ``RedisUnavailable`` then.
        """
        self._prepared_campaign(candidate_id, preconditions, info)

    def poll(
        self, candidate_id: str, highest_token: int, until: float | None = None, *, wake: bool = True
    ) -> Answer | None:
        """Poll a lease that another candidate holds. Errors as above.

        One round trip, in which a wait until the instant ``until`` can begin: see ``wait``. None when a campaign must
        tell: the state is not plainly such a lease, or older than ``highest_token``, or nobody has campaigned on this
        connection.
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
        """The heartbeat of the term ``token``, or the confirmation of its grant. Cost and errors as above.

        It costs one round trip more when the state in Redis is not plainly the leader's own. Of ``preconditions`` the
        acknowledged version and ``not_after`` count.
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
        """Gives the term ``token`` back, and with ``leave`` takes part no longer. One round trip.

        A second one if the server's clock was set since the last answer, so that it took the request for too old. It is
        then sent again, to be executed before the instant ``deadline`` at which the lease ends (0: not again).
        Of ``preconditions`` the highest token, the acknowledged version and ``not_after`` count. ``hold``: seconds for
        which nobody may lead yet. ``clocks``: what the clocks of this host show, so that a process that starts later
        can tell when that is over; without them it has to watch for that long. Return whether there was a lease of ours
        to give back: False if a request whose reply was lost has given it back already. Raise ``RedisUnavailable``.
        """
        request = self._prepared_release(
            candidate_id, token, reason, preconditions, leave=leave, hold=hold, clocks=clocks
        )
        not_after, pause = _digits(preconditions.not_after * 1000, 13), YIELD if token and not hold else 0.0
        reply = self._runner.send("release", request, not_after, pause=pause)
        if b"\nlate\n" in reply and (left := deadline - clock.now()) > 0:
            # Executed before now, so at the deadline the server's clock shows this or more.
            at = self._parsed("release", reply).at
            reply = self._runner.send("release", request, _digits((at + left) * 1000, 13))
        return reply.endswith(b"released")

    def prepare_release(self, candidate_id: str, token: int, reason: str, preconditions: Preconditions) -> None:
        """Packs the release that says this, so that it can leave at once. Local, and errors as of ``prepare``."""
        self._prepared_release(candidate_id, token, reason, preconditions, leave=False, hold=0, clocks="")

    def status(self) -> ElectionStatus:
        """Who leads. One round trip. Raises ``RedisUnavailable``."""
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
        """The newest ``limit`` changes, the newest first: about a thousand are kept.

        One round trip. Raises ``RedisUnavailable``.
        """
        if limit <= 0:
            return []
        with self._reading("history"):
            _, *texts = map(requests.decode, self._runner.run("history", self._keys, min(limit, MOST_EVENTS)))
            return [Event.from_texts(*entry) for entry in zip(*[iter(texts)] * 5, strict=False)]

    def server(self) -> dict[str, str]:
        """How the server is configured, as far as it says so. Two round trips. Raises ``RedisUnavailable``."""
        with self._reading("INFO"):
            sections = (self.channel.call("INFO", section) for section in ("memory", "replication"))
            lines = (line.partition(":") for text in sections for line in requests.decode(text).splitlines())
            return {name: value for name, _, value in lines}

    def post(self, to: str, message: dict[str, Any]) -> None:
        """Puts a message into the inbox of the candidacy ``to``. One round trip. Raises ``RedisUnavailable``.

        Rarely it arrives twice (see ``runner``), so whoever receives it must do the same by two as by one.
        """
        lifetime = math.ceil(self._timing.ttl * 1000)
        self._runner.run("post", (inbox(self._keys, to),), json.dumps(message), lifetime)

    def collect(self, candidate_id: str) -> list[dict[str, Any]]:
        """The messages to ``candidate_id`` that are waiting. One round trip. Raises ``RedisUnavailable``.

        If one is too long, it and those behind it are lost: see ``collect.lua``.
        """
        limits = MOST_MESSAGES, requests.LONGEST_MESSAGE
        with self._reading("collect"):
            _, *messages = self._runner.run("collect", (inbox(self._keys, candidate_id),), *limits)
            return [requests.parse_message(text) for text in messages]

    def wait(self, candidate_id: str, *, wake: bool, until: float, exact: bool = True) -> dict[str, Any] | None:
        """Waits for a message to ``candidate_id``, and with ``wake`` for a wake-up, until the instant ``until``.

        Gives the message, ``{"wake": True}`` for a wake-up, or None when the wait ended otherwise. A wait that began
        with a look goes on. Unless it is to be ``exact``, it may end 0.2 s late. Raises ``RedisUnavailable``, also for
        a message that is too long; the others of its kind are taken out of the inbox then.
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
        """A reply that is not of the kind that the script ``name`` gives becomes ``RedisUnavailable``."""
        try:
            yield
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise self._runner.not_ours(name) from error

    def _replicated(self, answer: Answer) -> Answer:
        if self._timing.replicas and answer.verdict in ("granted", "renewed"):
            self._confirmed()
        return answer

    def _confirmed(self) -> None:
        """Waits until enough replicas have what was just written. Raises ``RedisUnavailable`` when they do not."""
        # The server's timer may be late: what it has not said by then would end the connection.
        patience = max(1, math.floor((self._timing.operation - SERVER_TIMER) * 1000))
        have = self.channel.call_after("WAIT", self._timing.replicas, patience)
        if have < self._timing.replicas:
            raise RedisUnavailable(f"{have} of {self._timing.replicas} replicas (MIN_REPLICAS) have confirmed it")

    def _renew(self, candidate_id: str, token: int, info: LeaderInfo) -> Answer | None:
        """The lean renewal; None when it was unsure."""

        def packed() -> Packed:
            sha = self._runner.script("renew").sha
            return requests.packed_heartbeat(
                self.channel.pack, sha, self._keys, self._timing, candidate_id, token, info
            )

        reply = self._runner.send("renew", self._runner.prepared("renew", token, packed), _iso(utc_now()), once=True)
        with self._reading("renew"):
            return requests.parse_renewed(reply, candidate_id, token, self._timing)

    def _lean_poll(self, candidate_id: str, until: float | None, *, wake: bool) -> Answer | None:
        """The lean look; None when it was unsure."""

        def packed() -> Packed:
            sha = self._runner.script("poll").sha
            return requests.packed_poll(self.channel.pack, sha, self._keys, self._timing, candidate_id)

        # The first time the server may not know the script, and the wait behind it would eat what is meant for us.
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
