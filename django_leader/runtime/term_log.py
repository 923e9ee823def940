"""The log lines of one candidacy: when its terms began and ended, and who leads otherwise.

NOT guaranteed here: that a line is written at the instant of its event. A line waits until its thread holds no lock and
the hand-over is under way, so that the next leader does not wait for the log. So each line carries its event's instant.
The instants of two hosts can be compared as far as their wall clocks agree.

The records have attributes for programs: ``election`` (the alias), ``instance``, and as far as the line is about them
``token``, ``at`` (aware), ``reason``, ``leader`` and ``previous``.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django_leader.protocol.records import instance_of, printable, utc_now
from django_leader.system import clock
from django_leader.system.log import log


class TermLog:
    """The lines of one candidacy, until they are written. For one thread at a time, except ``write``."""

    def __init__(self, label: str, election: str, instance: str) -> None:
        self._label, self._leader, self._pid = label, "", os.getpid()
        self.about = {"election": election, "instance": instance}
        # Any thread: its methods are atomic.
        self._lines: deque[tuple[int, str, tuple[Any, ...], dict[str, Any]]] = deque()

    def gained(self, token: int) -> None:
        """Add that a term has begun now. Local."""
        at, who = utc_now(), self.about["instance"]
        self._add(logging.INFO, "leader, with token %d (%s, since %s)", token, who, at, token=token, at=at)

    def lost(self, token: int, reason: str, ended_at: float) -> None:
        """Add that the term ended at the instant ``ended_at`` on the boot clock. Local."""
        at, who = utc_now() - timedelta(seconds=clock.now() - ended_at), self.about["instance"]
        more = {"token": token, "at": at, "reason": reason}
        self._add(logging.INFO, "lost leadership: %s (%s, token %d, at %s)", reason, who, token, at, **more)

    def waits(self, seconds: float) -> None:
        """Add that the process waits for loss callbacks before it ends, for another ``seconds`` at most. Local."""
        text = "the process ends, and waits for loss callbacks for another %.1f s at most. If they take longer, they "
        text += "are cut off, and the lease is left to expire"
        self._add(logging.WARNING, text, seconds)

    def cannot_lead(self, error: BaseException) -> None:
        """Add that a term cannot be announced. Local."""
        self._add(logging.ERROR, "cannot lead: %s", error)

    def leads(self, leader: str, candidate_id: str) -> tuple[str, str] | None:
        """Add that the candidacy ``leader`` was seen to lead. Return (previous, current) if that is a change. Local."""
        if leader in ("", self._leader):
            return None
        (previous, current), self._leader = (printable(instance_of(one)) for one in (self._leader, leader)), leader
        if leader != candidate_id:
            text, names = ("%s leads, after %s", (current, previous)) if previous else ("%s leads", (current,))
            self._add(logging.INFO, text, *names, leader=current, previous=previous)
        return previous, current

    def write(self) -> None:
        """Write the lines that were added, but none in a forked child. May block as log handlers do: hold no lock."""
        with suppress(IndexError):  # until none is left
            while self._pid == os.getpid():  # a handler of the log may wait, and greenlets fork meanwhile
                level, text, args, extra = self._lines.popleft()
                # Format here, not in ``lost``: the release, for which the next leader waits, is sent after ``lost``.
                log(level, text, *(_shown(arg) if isinstance(arg, datetime) else arg for arg in args), extra=extra)

    def _add(self, level: int, text: str, *args: Any, **more: Any) -> None:
        self._lines.append((level, f"%s: {text}", (self._label, *args), self.about | more))


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"
