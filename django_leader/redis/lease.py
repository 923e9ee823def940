"""One election at Redis: the connection of one candidate, or of one question.

NOT guaranteed here: that a request which raised was not executed. ``RedisUnavailable`` means that its outcome is
unknown, and the connection is closed by then. Each script documents its guarantees at its top.
"""

from __future__ import annotations

from django_leader.protocol.config import ValidConfig
from django_leader.protocol.records import ElectionStatus, Event
from django_leader.protocol.requests import Requests
from django_leader.protocol.template import Request
from django_leader.system.waker import Waker

from .channel import Channel
from .connector import Connect
from .runner import Runner

DENIED = (
    ". The Redis user lacks a right that the election needs on its keys {!r}, {!r} and '{}*'. "
    "'manage.py leader_status --acl' prints the command that grants it"
)


class Lease(Runner):
    """The operations of one election at Redis, on one connection, for one thread at a time."""

    def __init__(self, connect: Connect, config: ValidConfig, waker: Waker | None = None) -> None:
        keys = config.keys
        if_denied = DENIED.format(*keys[:2], keys.wake.removesuffix("wake"))
        super().__init__(Channel(connect, config.timing.operation, waker, if_denied))
        self._requests = Requests(config)

    def wait(self, request: Request, until: float, *, exact: bool = True) -> tuple[bytes, bytes] | None:
        """Wait for an element in the lists that ``request`` names, until the instant ``until``. Return (key, element).

        Return None when the wait ended otherwise. A wait that a poll has begun goes on. Unless it is to be ``exact``,
        it may end 0.2 s late. Raise ``RedisUnavailable``.
        """
        return self.channel.wait(request, until, exact=exact)

    def status(self) -> ElectionStatus:
        """Return who leads. One round trip. Raise ``RedisUnavailable``."""
        status: ElectionStatus = self.ask(self._requests.status())
        return status

    def history(self, limit: int) -> list[Event]:
        """Return the newest ``limit`` changes, the newest first. Redis keeps about a thousand.

        One round trip. Raise ``RedisUnavailable``.
        """
        return self.ask(self._requests.history(limit)) if limit > 0 else []
