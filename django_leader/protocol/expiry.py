"""The proof that a state in Redis is over, on the candidate's own clock. Without it no candidate takes over.

The exception is the lease of a process that is proved to be dead (``pidfd``).

NOT guaranteed here:

- Anything, if the server's clock steps there and back between two polls of one candidate, and the candidate had no
  answer from in between. Two polls are a retry interval apart (in a large fleet up to four), plus the timeout of an
  operation.
- Anything, if the clocks of the holder and of the candidate together are wrong by more than the margin over one lease
  (by more than half of the margin where the server's clock is believed).

The state in Redis says who leads until when, or that there is a quarantine. It has a version, which every change
replaces, and a duration, counted from the instant at which it was set. A candidate that wants to take over names the
version in its campaign, and the script grants the lease only if that is still the version. So the candidate only has to
know that this very version has lasted for its duration. There are two proofs:

- The candidate has seen the version unchanged for its duration. This needs only the candidate's own clock.
- The first poll that found the version came right after a poll that found another one. So the state was set between the
  two polls. Each poll bounds the offset between the server's clock and ours, however slow the network is. If the bounds
  of both polls together span at most half of the margin that the holder left, the server's clock did not step while the
  state was set. The time that the server reports as remaining is then right.

The second proof lets a follower meet the end of a lease on time. Only the first poll that finds the version can
make it. A later poll cannot make up for it: if the server's clock was wrong when the state was set, then its end is
wrong for as long as the state lasts, even if the clock looks right again. A slow answer counts against the proof, too,
although it does not show that the clock stepped: the clock may have stepped and come back within the time of the
answer. That costs little. The candidate waits for the first proof, which comes at most one interval between two polls
later, and it judges the next version anew.

A candidate that has just started, or that slept, has only the first proof: it finds a lease that its holder left
behind, and watches it for one duration. Only of a delayed release it may know when it began (``hold``).
"""

from __future__ import annotations

from typing import NamedTuple

from .config import margin_of
from .records import Answer

RESOLUTION = 0.001
"""Seconds by which a time that the server told may be too early, because it tells whole milliseconds."""
STEP = 0.1
"""Seconds by which the server's clock must have been set at least, to count as a step: clocks that are slewed move less
between two heartbeats."""
STATES = ("granted", "renewed", "held", "expired", "quarantined")
"""The verdicts whose answer says what is left of the state."""


class Observation(NamedTuple):
    """One answer, and what it says about the server's clock."""

    asked_at: float
    server: float
    """The server's time at which it answered."""
    offset_min: float
    """By how many seconds the server's clock was ahead of ours: the lower bound."""
    offset_max: float
    """The upper bound."""


class ExpiryProof(NamedTuple):
    """What a candidate has seen: the last observation, the version of the state, and when that version is over."""

    observation: Observation | None = None
    version: str = ""
    expires_at: float = float("inf")
    steady: bool = False
    """Whether the server's clock ran as ours did while the state was set, so that ``expires_at`` is what it tells."""
    ahead: float = float("-inf")
    """By how many seconds the server's clock was ahead of ours, at most, when it was last seen in time."""
    shown: float = float("-inf")
    """The latest time that the server's clock can have shown up to the last observation. It may have been set back
    since."""

    def observe(self, asked_at: float, answer: Answer, now: float, poll_interval: float) -> ExpiryProof:
        """Return what is known after ``answer`` to a request that left at ``asked_at``; it arrived at ``now``. Pure.

        ``poll_interval``: seconds from the sending of one poll to the answer of the next, at most. An older observation
        proves nothing.
        """
        observation = Observation(asked_at, answer.at, answer.at - now, answer.at + RESOLUTION - asked_at)
        # An answer that took very long, as behind a suspend, says nothing of the clock.
        slow = now - asked_at > poll_interval and self.observation
        ahead = self.ahead if slow else observation.offset_max
        # Up to some instant since the last observation the clock may have been as far ahead as it was then.
        shown = max(self.shown, now + max(self.ahead, ahead))
        if answer.version == self.version:
            return self._replace(observation=observation, ahead=ahead, shown=shown)
        before = self.observation if self.observation and now - self.observation.asked_at <= poll_interval else None
        since = now if answer.held_since is None else min(now, answer.held_since)
        seen = ExpiryProof(observation, answer.version, since + answer.duration, ahead=ahead, shown=shown)
        if before and answer.verdict in STATES and _set_between(before, observation, answer):
            expires_at = max(now + answer.remaining, before.asked_at + answer.duration)
            return seen._replace(expires_at=min(seen.expires_at, expires_at), steady=True)
        return seen

    def expired_version(self, at: float) -> str:
        """Return the version that is proved to be over at the instant ``at``, or ''. Pure."""
        return self.version if at >= self.expires_at else ""

    def reckoned(self, at: float) -> float:
        """Return the latest time that the server's clock can have shown up to ``at``; 0 if it was never seen. Pure.

        It is in the future where that clock has been set back. True as long as the clock is not set there and back
        between two observations.
        """
        return max(0.0, at + self.ahead, self.shown)

    def server_time(self, at: float, *, upper: bool) -> float:
        """Return the latest (``upper``) or the earliest time that the server's clock can show at the instant ``at``.

        True as long as nobody sets that clock. 0 if nothing is known of it. Pure.
        """
        return at + (self.observation.offset_max if upper else self.observation.offset_min) if self.observation else 0.0


def stepped(before: ExpiryProof, after: ExpiryProof) -> bool:
    """Return whether the server's clock was certainly set between the last observations of the two. Pure."""
    old, new = before.observation, after.observation
    if old is None or new is None or old is new:
        return False
    return new.offset_min > old.offset_max + STEP or new.offset_max < old.offset_min - STEP


def _set_between(before: Observation, observation: Observation, answer: Answer) -> bool:
    """Return whether the state was set between the two observations, on a server's clock that ran as ours did."""
    if answer.held_since is not None:  # a delayed release has no margin at its end, and other clocks tell that end
        return False
    # The holder's margin counts. Its lease may be configured to be another than ours.
    slack = margin_of(answer.duration) / 2
    steady = observation.offset_max - before.offset_min <= slack and before.offset_max - observation.offset_min <= slack
    return steady and answer.at + answer.remaining - answer.duration >= before.server


NOTHING_SEEN = ExpiryProof()
