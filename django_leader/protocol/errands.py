"""What is only good to know: the server's configuration, the leader's project, and messages of other candidates.

NOT guaranteed here: that an errand is ever done. Each is one request, which the session sends when nothing is due. If
it fails, nothing follows from that.

- The server is asked for a part of its configuration at the beginning and after each outage, because it may be another
  server then.
- A follower compares its project with the leader's. The follower asks, because the project that starts second is the
  one that follows. If the two differ, it tells the leader by a message.
- The orders of operators (``orders``) are messages, too. They are passed on.
- Each candidate has an inbox, a list at Redis. The answer to a request says whether there is something in it. A
  candidate that sees another one with its own instance id writes to that one, which answers once.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from . import orders
from .orders import Order
from .records import Answer, ElectionStatus, instance_of, other_project, printable
from .requests import Requests
from .template import Request

NAMES = ("INFO", "status", "post", "collect")
"""The requests that are errands."""
MAX_ERRANDS = 100
"""Errands that wait at a time. Any program that writes to Redis can cause some."""


class Informed(Protocol):
    """Who is told what the errands have found. Must not raise."""

    def duplicate(self, other: str) -> None:
        """Note that the candidacy ``other`` has the same instance id."""

    def project(self, other: str) -> None:
        """Note that a candidate of the project ``other`` participates."""

    def ordered(self, order: Order) -> None:
        """Note that an operator has given an order to this candidacy."""

    def server(self, info: dict[str, str]) -> None:
        """Note a part of the server's configuration."""


class Errands:
    """The errands of one candidate that are still to do. For the thread that drives its session."""

    def __init__(self, candidate_id: str, requests: Requests, projects: tuple[str, ...], informed: Informed) -> None:
        self._candidate_id, self._requests, self._projects = candidate_id, requests, projects
        self._informed = informed
        self._todo = deque[Request]()
        self._asked_server = False
        self._compared: str | None = ""
        """The leader whose project was asked for last; None once a leader has published its project."""

    def next(self, leader: str) -> Request | None:
        """Return the next errand, or None. ``leader``: the candidacy that leads, or empty. Local."""
        if not self._asked_server:
            self._asked_server = True
            self._todo += self._requests.server("memory"), self._requests.server("replication")
        # One round trip for each new leader, until one has published its project. An election without Django's settings
        # may have none to publish.
        known = ("", self._candidate_id, self._compared)
        if self._projects and self._compared is not None and leader not in known:
            self._compared = leader
            self._later(self._requests.status())
        return self._todo.popleft() if self._todo else None

    def answered(self, answer: Answer, *, after_outage: bool) -> None:
        """Note what the answer to a campaign, a poll or a renewal says of messages, and the end of an outage. Local."""
        if after_outage:
            self._asked_server = False
        if answer.duplicate:
            self._later(self._requests.post(answer.duplicate, {"duplicate": self._candidate_id}))
        if answer.mail:
            self.collect()

    def collect(self) -> None:
        """Take the messages out of the inbox. Local: later."""
        self._later(self._requests.collect())

    def reply(self, name: str, meaning: Any, leader: str) -> None:
        """Act on what the reply to the errand ``name`` means. ``leader``: as in ``next``. Local."""
        match name:
            case "INFO":
                self._informed.server(meaning)
            case "status":
                self._compare_projects(meaning, leader)
            case "collect":
                for message in filter(None, meaning):
                    self.received(message)

    def received(self, message: dict[str, Any]) -> None:
        """Act on a message of another candidate. Local."""
        if isinstance(duplicate := message.get("duplicate"), str):
            self._informed.duplicate(duplicate)
            if not message.get("answer"):
                self._later(self._requests.post(duplicate, {"duplicate": self._candidate_id, "answer": True}))
        elif order := orders.received(message):
            self._informed.ordered(order)
        elif self._projects and isinstance(other := message.get("project"), str):
            self._informed.project(other)

    def failed(self) -> None:
        """Give up what is still to do: perhaps none of it is allowed, and each failure costs a connection. Local."""
        self._todo.clear()

    def _compare_projects(self, status: ElectionStatus, leader: str) -> None:
        if not status.leader or status.leader.instance_id != printable(instance_of(leader)):
            return  # another one leads by now; it is asked for when an answer names it
        if status.leader.project:
            self._compared = None
        if other := other_project(status.leader, self._projects):
            self._informed.project(other)
            self._later(self._requests.post(leader, {"project": self._projects[0]}))

    def _later(self, request: Request) -> None:
        if len(self._todo) < MAX_ERRANDS:
            self._todo.append(request)
