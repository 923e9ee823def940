"""When a state that a candidate sees in Redis is over: the proof on its own clock, without which nobody takes over.

NOT guaranteed here:

- Anything, if the server's clock steps there and back between two polls of one candidate, with no poll in between whose
  answer it had. Two polls are a retry interval apart (in a large fleet up to four), and the timeout of an operation.
- Anything, if the clocks of the holder and of the candidate together are wrong by more than the margin over one lease
  (by more than half of it where the server's clock is believed).

The state in Redis (who leads until when, or a quarantine) has a version, which every change replaces, and a span: how
long it lasts from when it was set. A candidate that wants to take over names the version in its campaign, and the
script grants it only if that is still the version. So it is enough to know, here, that this very version has lasted
its span. There are two proofs:

- The candidate has seen the version unchanged for its span. This needs nothing but the candidate's own clock.
- The first poll that found the version came right after one that found another. The state was set between the two, and
  by both polls the server's clock was equally far ahead of ours: within half the margin that the holder left, whatever
  the network did. So the server's clock ran as ours did while the state was set, and what it says is left, is left.

The second proof is what lets a follower meet the end of a lease on time. It is made by the first poll that finds the
version, or never. A later poll cannot make up for it: if the server's clock was wrong when the state was set, then its
end is wrong for as long as the state lasts, however right the clock looks again. So a slow answer counts against the
proof, too, although it does not show that the clock stepped: within the time of such an answer the clock may have
stepped and come back. That costs little. The candidate waits for the first proof, which comes one pause between two
polls later at most, and the next version is judged anew.

A candidate that has just come, or that slept, has only the first proof: it finds a lease that its holder left behind,
and watches it for one span. Only of a hold it may know when it began (``hold``).
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
    """What a candidate has seen: the last look, the version of the state, and when that is over."""

    look: Look | None = None
    version: str = ""
    over_at: float = float("inf")
    steady: bool = False
    """Whether the server's clock ran as ours while the state was set, so that ``over_at`` is the end that it tells."""

    def observe(self, asked_at: float, answer: Answer, now: float, pause: float) -> Watch:
        """Return what is known after ``answer``, which was asked for at ``asked_at`` and is there at ``now``. Pure.

        ``pause``: seconds between two polls of a candidate that watches. A poll longer ago proves nothing.
        """
        look = Look(asked_at, answer.at, answer.at - now, answer.at + GRAIN - asked_at)
        if answer.version == self.version:
            return self._replace(look=look)
        before = self.look if self.look and now - self.look.asked_at <= pause else None
        since = now if answer.held_since is None else min(now, answer.held_since)
        seen = Watch(look, answer.version, since + answer.span)
        if before and answer.verdict in STATES and _set_between(before, look, answer):
            over_at = max(now + answer.remaining, before.asked_at + answer.span)
            return seen._replace(over_at=min(seen.over_at, over_at), steady=True)
        return seen

    def over(self, at: float) -> str:
        """Return the version that is proved to be over at the instant ``at``, or ''. Pure."""
        return self.version if at >= self.over_at else ""

    def server_time(self, at: float, *, most: bool) -> float:
        """Return what the server's clock shows at the instant ``at`` at most, or at the least, unless it was set.

        0 if that is not known. Pure.
        """
        return at + (self.look.most if most else self.look.least) if self.look else 0.0


def _set_between(before: Look, look: Look, answer: Answer) -> bool:
    """Whether the state was set between the two looks, on a server's clock that ran as ours."""
    if answer.held_since is not None:  # nobody has left a margin for the end of a hold, and other clocks tell it
        return False
    # The margin that counts is the holder's, who may be configured with another lease than ours.
    slack = margin_of(answer.span) / 2
    steady = look.most - before.least <= slack and before.most - look.least <= slack
    return steady and answer.at + answer.remaining - answer.span >= before.server


NOTHING_SEEN = Watch()
