"""What a candidate reports about itself, for logs and metrics. Each hook does nothing here.

NOT guaranteed here: that a hook is called for everything that happens in the election. A candidate reports what it sees
itself.

A hook runs in the thread that does the I/O, which a heartbeat or a release may be waiting for. So it must be local and
short, and it must not raise. ``diagnostics`` implements the hooks as warnings in the log.
"""

from __future__ import annotations

from django_leader.protocol.machine import State
from django_leader.protocol.orders import Order
from django_leader.protocol.records import Answer


class Hooks:
    """The hooks of one candidacy. Subclass it, and override what you need."""

    def turn_began(self) -> None:
        """Handle that the election thread begins a turn: it decides what is due, and does it."""

    def turn_ended(self, state: State, wait: float) -> None:
        """Handle that a turn has ended, and that the next one begins after ``wait`` seconds, or at an event."""

    def answered(self, answer: Answer) -> None:
        """Handle that Redis has answered a campaign, a poll or a renewal."""

    def failed(self, error: BaseException | str, *, unexpected: bool = False) -> None:
        """Handle that Redis could not be used, or (``unexpected``) that an error of another kind kept us from it."""

    def wait_refused(self, error: BaseException) -> None:
        """Handle that a wait at Redis was refused or failed."""

    def duplicate(self, other: str) -> None:
        """Handle that the candidacy ``other`` has the same instance id."""

    def project(self, other: str) -> None:
        """Handle that a candidate of the project ``other`` participates."""

    def ordered(self, order: Order) -> None:
        """Handle an order of an operator to this candidacy."""

    def server(self, info: dict[str, str]) -> None:
        """Handle a part of the server's configuration, as its ``INFO`` says it."""
