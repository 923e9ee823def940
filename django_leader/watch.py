"""When a state that a candidate sees in Redis is over: the proof on its own clock, without which nobody takes over.

NOT guaranteed here: anything, if the server's clock jumps there and back between two looks of a candidate that watches
(a retry interval, of one among many up to four, and the timeout of an operation), or if the clocks of holder and taker
together are wrong by more than the margin over one lease (half of it where the server's clock is believed).

The state in Redis (who leads until when, or a quarantine) has a version, which every change replaces, and a span:
how long it lasts from when it was set. Whoever wants to take over names the version in its campaign, and the script
grants it only if that is still the version. So it is enough to know, here, that this very version has lasted its span:

- It was seen unchanged for its span. That needs nothing but our clock.
- Or the server says how much is left. Redis counts by its wall clock, which can be set, so that counts only if the
  clock was steady since the state was set. Our last look at another version came before that. If by both looks the
  server's clock is equally far ahead of ours, within half the margin that the holder left and whatever the network did,
  then it has run as ours did in between; and the state cannot be older than the first of the two looks.

The second proof is what lets a follower meet the end of a lease on time. A candidate that has just come, or that slept,
has only the first one: it finds a lease that its holder left behind, and watches it for one span.
"""

from __future__ import annotations

from typing import NamedTuple

from .config import margin_of
from .records import Answer

GRAIN = 0.001
"""Seconds by which a time that the server told may be too early: it tells whole milliseconds."""
STATES = ("granted", "renewed", "held", "expired", "quarantined")
"""The verdicts with which comes what is left of the state."""


class Look(NamedTuple):
    """One answer, and what it says of the server's clock."""

    asked_at: float
    server: float
    """The server's time at which it answered."""
    least: float
    """By how much the server's clock was ahead of ours, at the least."""
    most: float


class Watch(NamedTuple):
    """What a candidate has seen: the last look, and the version of the state since when, and when it is over."""

    look: Look | None = None
    version: str = ""
    first_at: float = 0.0
    over_at: float = float("inf")
    before: Look | None = None
    """The last look at another version, if it was not long ago."""
    steady: bool = False
    """Whether the server's clock has run as ours since then, so that ``over_at`` is the end that it tells."""

    def observe(self, asked_at: float, answer: Answer, now: float, pause: float) -> Watch:
        """After the ``answer`` to a request that left at ``asked_at`` and was answered by ``now``. Pure.

        ``pause``: seconds between two looks of a candidate that watches. What was seen longer ago says nothing.
        """
        look = Look(asked_at, answer.at, answer.at - now, answer.at + GRAIN - asked_at)
        if answer.version == self.version:
            seen = self._replace(look=look)
        else:
            recent = self.look if self.look and now - self.look.asked_at <= pause else None
            seen = Watch(look, answer.version, now, now + answer.span, recent)
        # The margin that counts is the holder's, who may be configured with another lease than ours.
        before, slack = seen.before, margin_of(answer.span) / 2
        set_at = answer.at + answer.remaining - answer.span
        if (
            before
            and answer.verdict in STATES
            and set_at >= before.server
            and look.most - before.least <= slack
            and before.most - look.least <= slack
        ):
            over_at = max(now + answer.remaining, before.asked_at + answer.span)
            return seen._replace(over_at=min(seen.over_at, over_at), steady=True)
        return seen

    def over(self, at: float) -> str:
        """The version that is proved to be over at the instant ``at``, or ''. Pure."""
        return self.version if at >= self.over_at else ""

    def server_time(self, at: float, *, most: bool) -> float:
        """What the server's clock shows at the instant ``at`` at most, or at the least, unless it was set.

        0 if that is not known. Pure.
        """
        return at + (self.look.most if most else self.look.least) if self.look else 0.0


NOTHING_SEEN = Watch()
