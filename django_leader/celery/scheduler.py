"""``LeaderScheduler``: a mixin for schedulers of Celery beat. In many beats only the one of the leader sends.

NOT guaranteed here:

- That a task is sent once. A leader that dies or is paused in the middle of sending leaves an entry *in doubt*. The
  next leader sends it again, three times at most, or skips it: ``in_doubt``. The id of the task is then the same.
- That a task runs once. The broker may deliver a message again, and workers run what is in the queue twice.
- That a task is sent at its instant. What came due while nobody led, or Redis or the broker was away, is sent late, and
  several instants of one entry are then sent once, as by Celery.
- Anything, if data are lost in Redis together with the leader: an entry may then be sent again, with the same id.

What is sent, and when:

- An entry is sent by the claim of its slot (``runtime.beat``), the instant at which it is due. Without a claim nothing
  is sent: not while Redis is away, not by a leader that was deposed. The entry is due again then.
- The order is: claim, publish, mark as sent, ``reserve``. So whatever interrupts this, what is saved was sent. If the
  broker refuses a message, the claim stays this term's, and the entry is sent by it later.
- The id of the task is a function of the name and the slot. So is the last run of an entry, which is its slot.
- A term begins with an empty memory. The schedule is set up and read then, and what Redis has recorded of each entry
  counts where the store is older. A follower neither reads nor writes the store.

All of this is called by the thread of beat. A signal handler may interrupt it and call ``close``, which does nothing
then, because Celery calls it again when the thread has unwound.
"""

from __future__ import annotations

import heapq
import logging
from typing import TYPE_CHECKING, Any

from django_leader.conf import BEAT_ALIAS
from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.slots import InDoubt
from django_leader.runtime.beat import BeatSlots, Sendable
from django_leader.runtime.runs import instant as shown
from django_leader.system import clock
from django_leader.system.log import log

from .due import due_after, milliseconds
from .leadership import Leadership
from .ledger import Ledger, Reach, set_last_run
from .messages import UNUSABLE, task_id

if TYPE_CHECKING:
    _Scheduler: Any
else:
    _Scheduler = object

LONGEST_PAUSE = 1.0
"""Seconds of one wait, at most, so that beat notices a new term, and its ping goes on to be answered."""
RETRY = 1.0
"""Seconds until an entry that could not be claimed or sent is tried again."""
SOON = 0.1
"""Seconds until an entry is looked at again, of which an earlier slot was dealt with."""


class LeaderScheduler(_Scheduler):  # type: ignore[misc]
    """Have a scheduler send only while its process leads. Put it before the class of the scheduler.

    That class must have the ``tick()`` of ``celery.beat.Scheduler``. If it keeps its schedule elsewhere than in
    ``data``, override ``forget_schedule``. Raise ``TypeError`` for a class whose ``tick()`` is its own.
    """

    _heap: Any
    """Celery's: when to look at which entry again."""
    leader_election = BEAT_ALIAS
    """The alias of the election. Any other than ``beat`` must be declared, with ``AUTOSTART`` False."""
    in_doubt: InDoubt = "rerun"
    """What becomes of an entry of which nobody knows whether the last leader has sent it: ``rerun`` sends it again with
    the same id, ``skip`` does not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from celery.beat import Scheduler

        inherited = next(cls for cls in type(self).__mro__ if cls is not LeaderScheduler and "tick" in vars(cls))
        if inherited is not Scheduler:
            raise TypeError(
                f"{type(self).__name__}: {inherited.__name__} has a tick() of its own, so LeaderScheduler cannot guard "
                "what it sends; guard the whole process with @leader_required instead"
            )
        self._leadership = Leadership(self.leader_election, lambda: self._sending is not None)
        self._reach = Reach(self._leadership.label)
        self._ledger: Ledger | None = None
        """Of the term; None while there is none."""
        self._wake_at = 0.0
        self._busy = self._closed = self._setting_up = False
        self._sending: Sendable | None = None
        """What is being published."""
        self._published: bool | None = None
        """Whether that was done; None if the scheduler publishes in a way of its own."""
        self._failure: Any = None
        """What the last try to publish has raised."""
        self._deferred: tuple[Any, float] | None = None
        """The entry that was just found not to be due, and the seconds after which it may be."""
        self._sent: dict[str, int] = {}
        """The slots that were sent and not reserved yet, by the name of the entry."""
        super().__init__(*args, **kwargs)
        given: Any = getattr(self, "data", None)
        self._given = dict(given) if isinstance(given, dict) else {}

    # What Celery calls.

    def setup_schedule(self) -> None:
        """Do nothing but in a term, which begins with it: a follower must not write to the store."""
        if self._setting_up:
            super().setup_schedule()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due, if this process leads; otherwise wait for that. Return the seconds until the next call.

        It lasts for a second at most while this process does not lead. Raise ``ImproperlyConfigured``.
        """
        if self._closed:
            return LONGEST_PAUSE
        self._busy = True
        try:
            return self._tick(*args, **kwargs)
        finally:
            self._busy = False

    def is_due(self, entry: Any) -> tuple[bool, float]:
        """Send an entry that is due. Return whether that was done, and after how many seconds to ask again."""
        due, wait = self._is_due(entry)
        self._deferred = None if due else (entry, wait)
        return due, wait

    def _is_due(self, entry: Any) -> tuple[bool, float]:
        ledger = self._ledger
        if ledger is None or not self._look_up(ledger, entry):
            return False, RETRY
        ledger.catch_up(entry)
        due, wait = super().is_due(entry)
        return self._send(ledger, entry, wait) if due else (due, wait)

    def reserve(self, entry: Any) -> Any:
        """Return the entry as it is after it was sent. Its last run is its slot."""
        reserved = super().reserve(entry)
        if (slot := self._sent.pop(entry.name, None)) is not None:
            set_last_run(reserved, slot)
        return reserved

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Save the schedule if that is due. ``is_due`` has sent the entry already."""
        if self.should_sync():
            self._do_sync()

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Publish an entry, with the id that follows from its slot unless its options have another."""
        if self._sending is None or self._ledger is None:
            return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        plain, self._published = entry.options, False
        own = task_id(self._ledger.slots.space, entry.name, self._sending.slot)
        entry.options = {"task_id": own, **(plain or {})}
        try:
            result = super().apply_async(entry, producer=producer, advance=advance, **kwargs)
        except Exception as error:
            self._failure = error.__context__ or error  # Celery raises an error of its own, and logs it
            raise
        finally:
            entry.options = plain
        self._published = True
        return result

    def should_sync(self) -> bool:
        """Return whether the schedule is to be saved now: never by a follower, nor while a task is being sent."""
        return self._may_save and self._sending is None and bool(super().should_sync())

    def sync(self) -> None:
        """Save the schedule, if this process leads."""
        if self._may_save:
            super().sync()

    def close(self) -> None:
        """Save what was sent, and let the next process lead. May be called twice, and by a signal handler."""
        if self._busy or self._closed:  # a signal handler has interrupted the thread, and Celery calls again
            return
        self._closed = True
        try:
            if self._may_save:
                super().close()
            else:
                self.forget_schedule()
        finally:
            if self._ledger is not None:
                self._ledger.slots.close()
            self._leadership.stop()

    # What a scheduler may override.

    def forget_schedule(self) -> None:
        """Forget the schedule that is in memory, and save nothing. Local."""
        self.data = dict(self._given)

    def changed(self, entry: Any) -> None:
        """Note that the last run of ``entry`` was changed, so that it is saved. Local."""

    # The term.

    @property
    def _may_save(self) -> bool:
        return self._ledger is not None and self._ledger.slots.is_current()

    def _tick(self, *args: Any, **kwargs: Any) -> float:
        self._leadership.start()
        term = self._leadership.term()
        if self._ledger is not None and (term is None or term.token != self._ledger.slots.token):
            self._end_term()
        if term is None:
            self._leadership.wait(LONGEST_PAUSE)
            return 0.0
        ledger = self._ledger or self._begin_term()
        if ledger is None:
            return RETRY
        if (left := self._wake_at - clock.now()) > 0:
            return min(left, LONGEST_PAUSE)
        self._settle(ledger)
        self._deferred = None
        pause: float = self._pass_over(super().tick(*args, **kwargs))
        self._wake_at = clock.now() + (min(pause, RETRY) if ledger.doubted else pause)
        return max(0.0, min(pause, LONGEST_PAUSE))

    def _pass_over(self, pause: float) -> float:
        """Have an entry that is not due make way for those behind it, as Celery does from 5.6 on. Return the pause."""
        heap = self._heap
        if self._deferred is None or not heap or heap[0][2] is not self._deferred[0]:
            return pause
        entry, wait = self._deferred
        event = heapq.heappop(heap)
        heapq.heappush(heap, event._replace(time=self._when(entry, wait)))
        return pause if heap[0][2] is entry else 0.0

    def _begin_term(self) -> Ledger | None:
        """Set up the schedule and read what Redis has recorded of it. Return None if that was not done."""
        access = self._leadership.access()
        if access is None:
            return None
        self._end_term()
        ledger = self._ledger = Ledger(BeatSlots(access, self.in_doubt), self._reach, self.changed)
        began, ready, self._setting_up = milliseconds(self.app.now()), False, True
        try:
            super().setup_schedule()
            entries = dict(self.schedule)
            ledger.read(entries, began)
            ready = True
        except RedisUnavailable as error:
            self._reach.lost(error)
        except Exception:
            text = "%s: Celery beat cannot set up its schedule, so that another process shall lead"
            log(logging.ERROR, text, self._leadership.label, exc_info=True)
            self._leadership.resign()
        finally:
            self._setting_up = False
            if not ready:
                self._end_term()
        if not ready:
            return None
        self._reach.back()
        log(logging.INFO, "%s: Celery beat sends the tasks of %d entries", self._leadership.label, len(entries))
        return ledger

    def _end_term(self) -> None:
        if self._ledger is not None:
            self._ledger.slots.close()
        self._ledger, self._wake_at = None, 0.0
        self._sent.clear()
        self._heap = self.old_schedulers = None
        self.forget_schedule()

    def _look_up(self, ledger: Ledger, entry: Any) -> bool:
        """Read what is recorded of new entries, if ``entry`` is one. Return whether it can be sent."""
        if not ledger.knows(entry) and entry.name not in ledger.doubted:
            heap: list[tuple[float, int, Any]] = self._heap or []
            try:
                ledger.read({other.name: other for _, _, other in heap} | {entry.name: entry})
            except RedisUnavailable as error:
                self._reach.lost(error)
        return ledger.knows(entry)

    def _settle(self, ledger: Ledger) -> None:
        """Send again what an earlier leader may have sent, or skip it."""
        if ledger.doubted and not self._connects():
            return
        for name in list(ledger.doubted):
            entry = self.schedule.get(name)
            if entry is None:  # it was removed or disabled
                del ledger.doubted[name]
                continue
            if granted := ledger.claim_again(entry):
                self._publish(ledger, entry, granted)
            ledger.settle(entry)
            self._heap = None
            if self._reach.away:
                return

    # Sending.

    def _send(self, ledger: Ledger, entry: Any, wait: float) -> tuple[bool, float]:
        """Claim an entry that is due and publish it. Return as ``is_due`` does; ``wait`` is what Celery would."""
        granted = ledger.claim_due(entry, self._now()) if self._connects() else None
        if granted is None:
            return False, RETRY
        if granted.again and granted.slot <= milliseconds(entry.last_run_at):
            ledger.mark_as_sent(entry, granted, 0.0)  # because it was saved, it was sent
            return False, SOON
        if not self._publish(ledger, entry, granted):
            return False, RETRY
        if granted.again:
            ledger.catch_up(entry)
            return False, SOON
        self._sent[entry.name] = granted.slot
        following = due_after(entry.schedule, granted.slot)
        if following is None or following <= granted.slot:
            return True, wait
        return True, (following - self._now()) / 1000

    def _now(self) -> int:
        return milliseconds(self.app.now())

    def _connects(self) -> bool:
        """Return whether there is a broker: before a claim, because what is claimed and not sent is in doubt."""
        try:
            return bool(self.producer)
        except Exception as error:
            text = "%s: Celery beat sends nothing, because the broker cannot be reached (%s)"
            log(logging.ERROR, text, self._leadership.label, type(error).__name__)  # its text may hold a password
            return False

    def _publish(self, ledger: Ledger, entry: Any, granted: Sendable) -> bool:
        """Publish an entry and mark it as sent. Return False if that is to be tried again. Log why."""
        if not ledger.slots.is_current():
            return False
        label, began = self._leadership.label, clock.now()
        if granted.again:
            text = "%s: the slot %s of %r is sent again with the same id, because it may not have been sent"
            log(logging.WARNING, text, label, shown(granted.slot), entry.name)
        self._sending, self._published, self._failure = granted, None, None
        try:
            super().apply_entry(entry, producer=self.producer)
            self._published = self._published is not False
        finally:
            self._sending = None
            if self._published:  # also if a signal handler has raised
                ledger.mark_as_sent(entry, granted, clock.now() - began)
        if self._published:
            return True
        if isinstance(self._failure, UNUSABLE):
            text = "%s: the slot %s of %r is not sent, because no message can be made of the entry (%s)"
            log(logging.ERROR, text, label, shown(granted.slot), entry.name, type(self._failure).__name__)
            ledger.mark_as_sent(entry, granted, clock.now() - began, "failed")
            return True
        text = "%s: the slot %s of %r could not be sent, and is tried again"
        log(logging.ERROR, text, label, shown(granted.slot), entry.name)
        return False
