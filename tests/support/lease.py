"""One request at a time, at Redis or within this process: the steps of a candidate, each as a method that a test calls.

It sends the requests of the package. What follows from a reply, which in production the session decides, is done here
at once, as far as one call goes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.records import NO_PRECONDITIONS, Answer, LeaderInfo, Preconditions, utc_now
from django_leader.protocol.requests import SECONDS, Requests
from django_leader.protocol.template import Request, command
from django_leader.redis import lease
from django_leader.redis.channel import Channel, ConnectionClosed
from django_leader.redis.connector import Connect
from django_leader.runtime.local import Local, open_lease
from django_leader.system.waker import Waker


def call(channel: Channel, *words: Any) -> Any:
    """Send a plain command, and return its reply."""
    return channel.call(Request(command(words, lambda reply: reply)).packed())


def blpop(*keys: str) -> Request:
    """A wait for an element in one of the lists."""
    return Request(command(("BLPOP", *keys, SECONDS), lambda reply: reply, (SECONDS,)))


class Lease:
    """The requests of any candidates on one connection."""

    def __init__(self, connect: Connect | Local, config: ValidConfig, waker: Waker | None = None) -> None:
        self.lease: lease.Lease = open_lease(connect, config, waker)
        self.channel, self._config = self.lease.channel, config
        self.status, self.history = self.lease.status, self.lease.history
        self.process = self._published = ""
        self._requests: dict[tuple[Any, ...], Requests] = {}
        self._polled = False

    def requests(self, candidate_id: str, info: LeaderInfo | None = None) -> Requests:
        """The requests of a candidate that publishes ``info``."""
        config = self._config
        if info:
            config = replace(config, instance_id=info.instance_id, hostname=info.hostname, projects=(info.project,))
        known = candidate_id, config, info.pid if info else 0
        if known not in self._requests:
            self._requests[known] = Requests(config, candidate_id, known[2])
        return self._requests[known]

    def pack(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> Request:
        """Pack a campaign."""
        return self.requests(candidate_id, info).campaign(preconditions, self.process, info.started_at or utc_now())

    def campaign(self, candidate_id: str, preconditions: Preconditions, info: LeaderInfo) -> Answer:
        """Attempt once to lead."""
        request = self.pack(candidate_id, preconditions, info)
        answer = self._confirmed(self.lease.ask(request))
        self._published = self.process
        return answer

    def poll(
        self, candidate_id: str, highest_token: int, until: float | None = None, *, wake: bool = True
    ) -> Answer | None:
        """Poll, and with ``until`` begin a wait; return None if only a campaign can tell."""
        if not self.channel.connected:
            return None
        requests = self.requests(candidate_id)
        wait = requests.wait(wake=wake) if until is not None and self._polled else None
        try:
            answer: Answer | None = requests.poll().read(self.lease.send(requests.poll(), wait, until or 0.0))
        except ConnectionClosed:
            return None
        self._polled = True
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
        """Renew a term, or confirm its grant: the lean way if that can tell."""
        requests, since = self.requests(candidate_id, info), info.started_at or utc_now()
        if self.channel.connected and not confirm and self._published == self.process:
            try:
                if answer := self.lease.ask(requests.renew(token, since, utc_now())):
                    return self._confirmed(answer)
            except ConnectionClosed:
                pass
        request = requests.reclaim(token, since, utc_now(), preconditions, self.process, confirm=confirm)
        answer = self._confirmed(self.lease.ask(request))
        self._published = self.process
        return answer

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
    ) -> bool:
        """Give a term back; return whether there was one."""
        request = self.requests(candidate_id).release(
            token, reason, preconditions, leave=leave, delay=hold, clocks=clocks
        )
        return self.lease.ask(request) is True

    def post(self, to: str, message: dict[str, Any]) -> None:
        """Post a message."""
        self.lease.ask(self.requests("").post(to, message))

    def collect(self, candidate_id: str) -> list[dict[str, Any]]:
        """Collect the messages."""
        messages: list[dict[str, Any]] = self.lease.ask(self.requests(candidate_id).collect())
        return messages

    def wait(self, candidate_id: str, *, wake: bool, until: float, exact: bool = True) -> dict[str, Any] | None:
        """Wait at Redis."""
        request = self.requests(candidate_id).wait(wake=wake)
        message: dict[str, Any] | None = request.read(self.lease.wait(request, until, exact=exact))
        return message

    def _confirmed(self, answer: Answer) -> Answer:
        replicas = self._config.min_replicas
        if replicas and answer.verdict in ("granted", "renewed"):
            have = self.lease.ask(self.requests("").await_replicas())
            if have < replicas:
                raise RedisUnavailable(f"{have} of {replicas} replicas (MIN_REPLICAS) have confirmed the lease")
        return answer
