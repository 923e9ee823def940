"""The slots of one job that needs no leader, claimed in the thread that calls.

NOT guaranteed here: what ``protocol.leaderless`` does not guarantee.

A call looks at the record first, because in most processes the slot was decided before. If not, it claims the slot.

- If the answer is lost, a later call sends the same claim again, and gets the same answer. It does so only when the
  first request is too old to be executed (J7), so that a copy that comes late changes nothing.
- If another slot is due by then, the call says first that the claim has started nothing. Otherwise Redis would take it
  for a run that goes on. The end of a run that could not be recorded is told again in the same way.
- While the last run goes on in this process, it claims nothing. Another process may run the slot.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.job_records import JobRecord, JobRecords, job_records
from django_leader.protocol.jobs import Job
from django_leader.protocol.leaderless import once
from django_leader.protocol.records import NONCE_LENGTH
from django_leader.protocol.requests import Requests
from django_leader.protocol.slots import AHEAD, Claim, Decisions, End, SlotRequests, new_claim_id
from django_leader.redis.connector import Connect
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.log import log

from .local import LocalLease, open_lease


class LeaderlessClaimer:
    """Claims the slots of one job in this process, and in no child of it: a child makes its own. Any thread."""

    def __init__(self, job: Job, label: str) -> None:
        # Never change.
        self._job, self._label = job, label
        self._nonce = secrets.token_hex(NONCE_LENGTH // 2)
        self._lock = threading.Lock()
        # Under the lock:
        self._claim: Claim | None = None
        """One that has no answer yet."""
        self._too_old_at = -math.inf
        """When a request without an answer is too old to be executed."""
        self._going: tuple[str, float] | None = None
        """The claim of the last run, while that goes on here, and since when it does."""
        self._unrecorded: list[End] = []
        """Ends that Redis may not have recorded."""

    def claim(self, connect: Connect, config: ValidConfig) -> End | str:
        """Claim the last slot. Return how its run will have ended, but for the outcome; or why it is not run.

        One round trip on a new connection if the slot was decided before; otherwise two, and one more with
        ``MIN_REPLICAS``. One more after a call that had no answer; local while its request may still be executed.
        Waits for another thread that does the same.
        """
        with self._lock:
            if clock.now() < self._too_old_at:
                return "undecided"
            lease = open_lease(connect, config)
            try:
                return self._ask(lease, config)
            except RedisUnavailable as error:
                log(logging.WARNING, "%s: the job %r cannot be started: %s", self._label, self._job.name, error)
                return "redis-unavailable"
            finally:
                lease.channel.drop()

    def _ask(self, lease: Lease, config: ValidConfig) -> End | str:
        job, timing = self._job, config.timing
        # Other processes cannot have decided a slot of a ``LOCAL`` election, whose records nobody can look at.
        local = isinstance(lease, LocalLease)
        now = JobRecords(time.time_ns() // 1_000_000, (None,))
        records: JobRecords = now if local else lease.ask(job_records(config.keys, [job.name]))
        [record], slot = records.each, job.schedule.latest(records.at)
        if self._claim and self._claim.slot != slot:
            self._unrecorded.append(self._end_of(self._claim)._replace(error="its claim was not confirmed"))
            self._claim = None
        self._tell(lease, config, record)
        if self._claim is None:
            if record and record.last >= slot:
                return "waiting" if record.last > records.at + AHEAD * 1000 else "done"
            if self._going and clock.now() - self._going[1] <= job.max_run:
                return "overlapped"
            before = job.schedule.latest(slot - 1)
            self._claim = Claim(job.name, slot, before, new_claim_id(), job.grace_of(slot, before))
        claim = self._claim
        self._too_old_at = clock.now() + timing.operation
        not_after = records.at / 1000 + timing.operation
        answer: Decisions = lease.ask(once(config.keys, self._process(config), claim, not_after, job.max_run))
        self._too_old_at = -math.inf
        if answer.verdict != "decided":
            return "undecided"
        [decision] = answer.each
        if decision.verdict == "run" and timing.replicas:
            replicas: int = lease.ask(Requests(config).await_replicas())
            if replicas < timing.replicas:
                return "undecided"
        self._claim = None
        if decision.verdict != "run":
            return "undecided" if decision.verdict == "early" else decision.verdict
        self._going = claim.claim_id, clock.now()
        return self._end_of(claim)

    def _end_of(self, claim: Claim) -> End:
        return End(0, claim.name, claim.slot, claim.claim_id, "failed-to-start", 0.0)

    def _tell(self, lease: Lease, config: ValidConfig, record: JobRecord | None) -> None:
        """Tell the ends that Redis has not recorded, if ``record`` is of their runs: it has only the last."""
        ends = [end for end in self._unrecorded if record and (record.claim, record.outcome) == (end.claim_id, "-")]
        if ends:
            self._finish(lease, config, ends)
        self._unrecorded.clear()

    def _finish(self, lease: Lease, config: ValidConfig, ends: list[End]) -> None:
        lease.ask(SlotRequests(config.keys, self._process(config), 0, 0.0).finish(ends))

    def ended(self, connect: Connect, config: ValidConfig, end: End) -> None:
        """Record the end of a run. One round trip on a new connection. Log it if that fails; the next call tells it."""
        with self._lock:
            if self._going and self._going[0] == end.claim_id:
                self._going = None
            lease = open_lease(connect, config)
            try:
                self._finish(lease, config, [end])
            except RedisUnavailable as error:
                self._unrecorded.append(end)
                text = "%s: the end of the job %r could not be recorded: %s"
                log(logging.WARNING, text, self._label, self._job.name, error)
            finally:
                lease.channel.drop()

    def _process(self, config: ValidConfig) -> str:
        return f"{config.instance_id}:{self._nonce}"
