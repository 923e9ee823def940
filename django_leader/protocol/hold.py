"""How long ago a lease was released with a delay (``hold=``), for a candidate that did not see the release.

NOT guaranteed here:

- That a hold lasts if two clocks are wrong, each by about as much as the hold or more: the server's, and the wall clock
  of the host of the last leader or of the candidate.
- That a hold outlives its record. It is lost with the data of Redis. A restart or a failover of Redis, and a replica
  that joins, replace it by a quarantine, which may be shorter. A release that Redis does not answer is not repeated. In
  that case only the rest of the lease keeps other processes from leading.

Neither can produce two leaders: a delayed lease is a released one, and the next grant has a token of its own. But a job
may run once more.

A hold is a state like any other, of the kind ``delay``. It ends for a candidate that has watched it for its duration
(``expiry``). Unlike other states, it is mostly found by a process that has just started: the command that cron starts
the next time. Such a process has watched nothing, and must not wait for the length of a hold that was over long ago. So
the process that releases publishes what the clocks of its host showed, and the candidate takes the clock that has
counted least since then:

- The boot clock, if both processes run on one boot of one machine. It cannot be set, so it decides alone.
- Otherwise the server's clock and the wall clocks of the two hosts. Each can be set, so the hold is over only when both
  say so. That is longer than asked for if the hosts' clocks differ, by as much as they differ.
- A clock by which the hold begins later than now, by more than the hold itself, is ignored, and the others decide.
  Otherwise a host whose clock is years ahead could hold a lease for years. If none is left, the hold is watched.
- Machines that were resumed from one snapshot share the boot id. The wall time of boot tells them apart (``pidfd``).
  If it does not agree, the boot clock is one among the others.

The time counts from before the release is sent. Its sender has not led since, so nothing depends on when the release is
executed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .expiry import STATES, ExpiryProof
from .records import Answer

DELAY = "delay:"
"""The beginning of the version of such a state."""
RESOLUTION = 0.001
"""Seconds to which the published clocks are rounded."""
SAME_BOOT = 1.0
"""Seconds by which two readings of the wall time of one boot may differ. That time changes only when the wall clock is
stepped: by a leap second, or because it was wrong. chrony, as usually configured (``makestep 1``), steps the clock only
if it is wrong by more than a second; slewing moves both clocks alike. On machines that were resumed from one snapshot
at different times, the wall time of boot differs by the time in between, once their wall clocks are set."""
_TEXT = re.compile(r"([0-9a-f-]{36}|-) ([0-9]{1,15}) ([0-9]{1,15})")


class Clocks(NamedTuple):
    """What the clocks of a host show at one instant."""

    boot: str
    """Which boot of which machine ``at`` belongs to; '' where the system does not say."""
    at: float
    """Seconds on the boot clock."""
    wall: float
    """Seconds on the wall clock."""

    def to_text(self) -> str:
        """Return one line of ASCII, of about 70 characters. Local."""
        return f"{self.boot or '-'} {round(self.at * 1000)} {round(self.wall * 1000)}"

    @classmethod
    def from_text(cls, text: str) -> Clocks | None:
        """Return the reverse; None if ``text`` is not such a line. Never raises."""
        match = _TEXT.fullmatch(text)
        return cls(match[1].strip("-"), int(match[2]) / 1000, int(match[3]) / 1000) if match else None


def held_since(answer: Answer, here: Clocks) -> float | None:
    """Return the instant on our boot clock at which the hold in ``answer`` began. Pure.

    If clocks disagree, the clock counts by which the hold began last.
    ``here``: our clocks when the answer came. Return None if the state is no hold, if the answer does not say what is
    left of it, if its holder has published no clocks, or if no clock can be used.
    """
    held = answer.version.startswith(DELAY) and answer.verdict in STATES
    there = Clocks.from_text(answer.process) if held else None
    if there is None:
        return None
    one_boot = there.boot == here.boot != "" and there.at <= here.at + RESOLUTION
    if one_boot and abs((there.wall - there.at) - (here.wall - here.at)) <= SAME_BOOT:
        return there.at
    elapsed = [answer.duration - answer.remaining, here.wall - there.wall]
    elapsed = [seconds for seconds in elapsed if seconds >= -answer.duration]
    if one_boot:
        elapsed.append(here.at - there.at)
    return here.at - min(elapsed) if elapsed else None


def hold_left(watch: ExpiryProof, now: float) -> float:
    """Return the seconds for which the last leader's hold goes on, as ``watch`` saw it; 0 if there is none. Pure."""
    return max(0.0, watch.expires_at - now) if watch.version.startswith(DELAY) else 0.0
