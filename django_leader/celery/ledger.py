"""What one term knows of the entries of Celery beat: the last slot of each, what is in doubt, and what may be sent.

NOT guaranteed here: that what was claimed is sent. The scheduler does that, and says so (``mark_as_sent``).

Redis has recorded the last slot of each entry, and the store of the scheduler its last run. The later one counts. For
the thread of beat alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.job_records import JobRecord
from django_leader.protocol.jobs import Decided
from django_leader.protocol.slots import Outcome
from django_leader.runtime.beat import BeatSlots, Sendable
from django_leader.runtime.jobs import NOT_RUN
from django_leader.runtime.runs import instant as shown
from django_leader.system.log import log

from .due import instant, milliseconds, next_due

UNUSUAL = 60_000
"""Milliseconds by which a slot must be in the future to be worth a line of the log."""


class Reach:
    """Whether Redis answers beat, as far as the log has said. ``label`` names the election there."""

    def __init__(self, label: str) -> None:
        self.label, self.away = label, False

    def lost(self, error: RedisUnavailable) -> None:
        """Log that nothing is sent, once."""
        if not self.away:
            self.away = True
            log(logging.WARNING, "%s: Celery beat sends nothing: %s", self.label, error)

    def back(self) -> None:
        """Log that tasks are sent again, if the log has said otherwise."""
        if self.away:
            self.away = False
            log(logging.INFO, "%s: Celery beat can send again", self.label)


class Ledger:
    """The entries in one term. ``changed`` is called with an entry whose last run was changed."""

    def __init__(self, slots: BeatSlots, reach: Reach, changed: Callable[[Any], None]) -> None:
        self.slots, self._reach, self._changed = slots, reach, changed
        self._last: dict[str, int] = {}
        """The last slot of each entry that is decided."""
        self.doubted: dict[str, JobRecord] = {}
        """The entries that an earlier leader has claimed and not marked as sent, and that are not settled yet."""
        self._granted: dict[str, Sendable] = {}
        """The entries that are claimed and not sent yet."""
        self._skewed = False

    # What is recorded.

    def read(self, entries: Mapping[str, Any], began: int | None = None) -> None:
        """Read the records of entries that are new in this term. A round trip, or none. Raise ``RedisUnavailable``.

        ``began``: when the schedule was set up. An entry that this has made has no history, so the record counts.
        """
        new = [name for name in entries if name not in self._last and name not in self.doubted]
        for name, record in (self.slots.records(new) if new else {}).items():
            self._lay(entries[name], record, began)

    def knows(self, entry: Any) -> bool:
        """Return whether it is known what became of the last slot of ``entry``. Local."""
        return entry.name in self._last

    def _lay(self, entry: Any, record: JobRecord | None, began: int | None) -> None:
        stored = milliseconds(entry.last_run_at)
        made = began is not None and stored >= began and not entry.total_run_count
        if record is None:
            self._last[entry.name] = 0
        elif record.outcome == "-" and record.token != self.slots.token and (made or record.slot > stored):
            self.doubted[entry.name] = record
        else:
            self._last[entry.name] = record.last
            if made and 0 < record.last < stored:
                self._count_run(entry, record.last)
            self.catch_up(entry)
            self._explain_wait(entry)

    def _explain_wait(self, entry: Any) -> None:
        """Log if the last slot of an entry is in the future, so that it is not sent for long."""
        last, now = self._last[entry.name], self.slots.server_now()
        if now is not None and last > now + UNUSUAL:
            text = "%s: %r is not sent before %s, because that slot was decided before a clock was set back"
            log(logging.WARNING, text, self._reach.label, entry.name, shown(last))

    def catch_up(self, entry: Any) -> None:
        """Have the last run of an entry be no earlier than the last slot that was decided. Local."""
        if (last := self._last.get(entry.name, 0)) > milliseconds(entry.last_run_at):
            self._count_run(entry, last)

    def settle(self, entry: Any) -> None:
        """Note that an entry is in doubt no more, if its last slot is known now. Local."""
        if self.knows(entry):
            del self.doubted[entry.name]
            self._count_run(entry, self._last[entry.name])

    def _count_run(self, entry: Any, slot: int) -> None:
        set_last_run(entry, slot)
        for counted in _with_model(entry):
            counted.total_run_count = (counted.total_run_count or 0) + 1
        self._changed(entry)

    # Claims.

    def claim_again(self, entry: Any) -> Sendable | None:
        """Claim the slot of an entry in doubt. Return as ``claim_due`` does."""
        doubted = self.doubted[entry.name]
        granted = self._granted.get(entry.name) or self._claim(entry, doubted.last, 0)
        if granted is None and self.knows(entry):
            text = "%s: the slot %s of %r may not have been sent, and is not sent again"
            log(logging.WARNING, text, self._reach.label, shown(doubted.slot), entry.name)
        return granted

    def claim_due(self, entry: Any, at: int) -> Sendable | None:
        """Claim the slot of an entry that is due at the instant ``at``, unless it is claimed already.

        Return the right to send it, or an earlier one; None if it must not be sent, or not now. A few round trips.
        """
        if entry.name in self._granted:
            return self._granted[entry.name]
        # On the slower clock, because a host whose clock is ahead would claim for an instant that is always early.
        there, last = self.slots.server_now(), milliseconds(entry.last_run_at)
        due = next_due(entry.schedule, last, at if there is None else min(at, there))
        before = due.missed or self._last[entry.name] or last
        return self._claim(entry, due.slot, min(before, due.slot - 1))

    def mark_as_sent(self, entry: Any, granted: Sendable, took: float, outcome: Outcome = "ok") -> None:
        """Mark an entry as sent, or as one that cannot be. One round trip, or a later request if Redis is away."""
        self._granted.pop(entry.name, None)
        doubted = self.doubted.get(entry.name)
        self._last[entry.name] = max(self._last.get(entry.name, 0), granted.slot, doubted.last if doubted else 0)
        self.slots.sent(entry.name, granted, took, outcome)

    def _claim(self, entry: Any, slot: int, before: int) -> Sendable | None:
        try:
            decided = self.slots.claim(entry.name, slot, before)
        except RedisUnavailable as error:
            self._reach.lost(error)
            return None
        self._reach.back()
        return self._decided(entry, decided) if decided else None

    def _decided(self, entry: Any, decided: Decided) -> Sendable | None:
        verdict, decision = decided.decision.verdict, decided.decision
        if verdict in ("run", "rerun"):
            granted = Sendable(decision.slot, decided.claim.claim_id, again=verdict == "rerun")
            self._granted[entry.name] = granted
            return granted
        if verdict == "early":
            if not self._skewed:
                self._skewed = True
                text = "%s: tasks are sent early, by up to a second, because the clock of this host is ahead of Redis's"
                log(logging.WARNING, text, self._reach.label)
            return None
        if verdict in NOT_RUN:
            level, why = NOT_RUN[verdict]
            log(level, "%s: the slot %s of the job %r %s", self._reach.label, shown(decision.slot), entry.name, why)
        self._last[entry.name] = decision.last
        return None


def set_last_run(entry: Any, slot: int) -> None:
    """Have an entry, and the row of the database that it was made of, say that it ran last at ``slot``. Local."""
    when = instant(slot, entry._default_now())  # that of django-celery-beat may be naive
    for changed in _with_model(entry):
        changed.last_run_at = when


def _with_model(entry: Any) -> list[Any]:
    return [one for one in (entry, getattr(entry, "model", None)) if one is not None]
