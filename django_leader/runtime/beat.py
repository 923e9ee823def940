"""The slots of Celery beat's entries in one term: claimed before an entry is sent, and marked as sent afterwards.

NOT guaranteed here:

- That an entry is sent once. A leader may die after the broker has the message and before Redis knows of it. The next
  leader then sends it again, with the same id, or skips it (``in_doubt``).
- That a slot is the same in all processes. The caller computes it (``django_leader.celery.due``).

A slot is the instant at which an entry is due. The rules are those of ``protocol.slots``: within one term the slots of
an entry only grow, a stale leader is refused by Redis, and a claim whose answer was lost is sent again with its id.
An entry is sent however late it is, so a claim has no grace to speak of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.job_records import JobRecord, JobRecords, job_records
from django_leader.protocol.jobs import Decided, Job, JobSession
from django_leader.protocol.session import Send
from django_leader.protocol.slots import LONGEST_NAME, End, InDoubt, Outcome
from django_leader.system import clock

from .jobs import Access
from .local import Local

GRACE = 100 * 366 * 86400.0
"""Seconds after its slot up to which an entry may be sent: a hundred years."""
AT_A_TIME = 500
"""Records in one request, at most."""
DIGEST = 16
"""Bytes of the hash that stands for the end of a long name."""


class Sendable(NamedTuple):
    """The right to send an entry."""

    slot: int
    """Milliseconds since the Unix epoch."""
    claim_id: str
    again: bool = False
    """Whether an earlier leader may have sent it."""


class Unscheduled:
    """The schedule of a job whose slots the caller names."""

    text = "Celery beat"

    def next(self, after: int) -> int:
        """Raise ``ValueError``: nobody knows the next slot. Local."""
        raise ValueError

    latest = next


class BeatSlots:
    """The slots of one term. For one thread at a time.

    One connection, which is made when it is needed. ``in_doubt``: what becomes of an entry that a former leader has
    claimed and not marked as sent.
    """

    def __init__(self, access: Access, in_doubt: InDoubt) -> None:
        self._access, self._in_doubt = access, in_doubt
        self._lease, self._requests = access.open(), access.requests()
        self._sessions: dict[str, JobSession] = {}
        self.token = access.term.token
        """The fencing token of the term."""
        self.space = access.config.keys.lock
        """What tells the entries of this election from those of others."""

    def is_current(self) -> bool:
        """Return whether the term goes on. Local."""
        return self._access.term.is_current()

    def records(self, names: Sequence[str]) -> dict[str, JobRecord | None]:
        """Return what is recorded of these entries. One round trip for 500 of them. Raise ``RedisUnavailable``."""
        found: dict[str, JobRecord | None] = dict.fromkeys(names)
        if isinstance(self._access.connect, Local):  # there is no other process
            return found
        for first in range(0, len(names), AT_A_TIME):
            some = names[first : first + AT_A_TIME]
            records: JobRecords = self._lease.ask(job_records(self._access.config.keys, [*map(recorded_as, some)]))
            found.update(zip(some, records.each, strict=True))
        return found

    def claim(self, name: str, slot: int, before: int) -> Decided | None:
        """Claim ``slot`` of an entry. Return what became of it, or of an earlier claim that had no answer yet.

        Return None if that is not known: the term is over, or Redis must be asked again later. ``before``: the last
        instant that is not claimed any more. A few round trips. Raise ``RedisUnavailable``.
        """
        session = self._session(name)
        session.want(slot, before)
        decided: list[Decided] | None = []
        while decided == []:
            decided = self._turn(session, self._access.term.lease_left)
        return decided[0] if decided else None

    def sent(self, name: str, slot: Sendable, took: float, outcome: Outcome = "ok") -> None:
        """Mark an entry as sent, or as one that cannot be. One round trip.

        If Redis does not answer, the next request about the entry does it, or ``close``.
        """
        session = self._session(name)
        session.ended(End(self.token, recorded_as(name), slot.slot, slot.claim_id, outcome, took))
        self._flush(session, self._access.term.lease_left)

    def close(self) -> None:
        """Send once more what is marked and has no answer, and close the connection."""
        for session in self._sessions.values():
            if session.unsent():
                self._flush(session, 0.0)
        self._lease.channel.drop()

    def server_now(self) -> int | None:
        """Return the milliseconds on the server's clock, as far as is known; None if nothing is. Local."""
        return int(self._access.shared.state.watch.server_time(clock.now(), upper=False) * 1000) or None

    def _session(self, name: str) -> JobSession:
        if name not in self._sessions:
            job = Job(recorded_as(name), Unscheduled(), GRACE, self._in_doubt)
            self._sessions[name] = self._access.session([job], self._requests, {})
        return self._sessions[name]

    def _turn(self, session: JobSession, left: float) -> list[Decided] | None:
        """Do what the session says next. Return what was decided by the answer, None if the session waits.

        ``left``: seconds that are left of the term; if none are, only marks are sent.
        """
        now = clock.now()
        todo = session.next(now, self._access.shared.state.watch, now + left)
        if not isinstance(todo, Send):
            return None
        try:
            return session.reply(todo.request, self._lease.send(todo.request), clock.now())
        except BaseException:  # also a signal handler's: the reply may still come
            self._lease.channel.drop()
            session.failed(clock.now())
            raise

    def _flush(self, session: JobSession, left: float) -> None:
        with suppress(RedisUnavailable):  # kept: it is sent before the next claim, and by ``close``
            self._turn(session, left)


def recorded_as(name: str) -> str:
    """Return the name under which an entry is recorded: its own, unless it is empty or too long. Local."""
    if 0 < len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=DIGEST).hexdigest()
    return f"{name[: LONGEST_NAME - len(digest) - 1]}:{digest}"
