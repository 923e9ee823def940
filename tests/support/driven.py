"""A candidate without threads: a session whose requests a test has sent, one at a time, on a real connection."""

from __future__ import annotations

import random

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import machine
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.records import utc_now
from django_leader.protocol.session import Leave, Send, Session, Wait
from django_leader.redis.channel import ConnectionClosed
from django_leader.redis.lease import Lease
from django_leader.runtime.hooks import Hooks
from django_leader.system import clock
from django_leader.system.pidfd import clocks


class Driven:
    """One candidate, and the names of the requests that it has sent."""

    def __init__(self, lease: Lease, config: ValidConfig, candidate_id: str) -> None:
        self.lease, self.state, self._timing = lease, machine.State(), config.timing
        self.sent: list[str] = []
        self.session = Session(
            self,
            candidate_id,
            config,
            0,
            Hooks(),
            random=random.random,
            wall=utc_now,
            clocks=clocks,
            follow=lambda answer, asked_at: None,
        )

    def apply(self, event: machine.AnyEvent) -> None:
        self.state = machine.step(self.state, event, clock.now(), self._timing)

    def act(self) -> Wait | Leave:
        """Send what is due, until there is something to wait for."""
        while True:
            todo = self.session.next(clock.now(), self.lease.channel.connection)
            if not isinstance(todo, Send):
                return todo
            self.sent.append(todo.request.template.name)
            try:
                reply = self.lease.send(todo.request, todo.wait, todo.until)
                self.session.reply(todo.request, reply, clock.now(), self.lease.channel.number)
            except RedisUnavailable as error:
                self.lease.channel.drop()
                self.session.failed(todo.request, error, closed=isinstance(error, ConnectionClosed))

    def due(self) -> list[str]:
        """Act as if the next request were due now. Return what was sent."""
        self.sent.clear()
        self.state = self.state._replace(next_at=clock.now())
        self.act()
        return self.sent

    def hear(self) -> None:
        """Wait at Redis until there is an element for this candidate, and act on it."""
        todo = self.act()
        assert isinstance(todo, Wait)
        assert todo.at_redis
        element = self.lease.wait(todo.at_redis, todo.until, exact=todo.exact)
        assert element
        self.session.reply(todo.at_redis, element, clock.now(), self.lease.channel.number)
