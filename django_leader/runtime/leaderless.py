"""The slots of one job that needs no leader, claimed in the thread that calls.

NOT guaranteed here: what ``protocol.leaderless`` does not guarantee.

A call looks at the record first, because in most processes the slot was decided before. If not, it claims the slot. If
the answer is lost, the next call sends the same claim again, and gets the same answer.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.job_records import JobRecords, job_records
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
    """Claims the slots of one job in this process, and in no child of it. Any thread."""

    def __init__(self, job: Job, label: str) -> None:
        # Never change.
        self._job, self._label = job, label
        self.pid, self._nonce = os.getpid(), secrets.token_hex(NONCE_LENGTH // 2)
        self._lock = threading.Lock()
        # Under the lock:
        self._claim: Claim | None = None
        """One that has no answer yet."""
        self._going: tuple[str, float] | None = None
        """The claim of the last run, while that goes on here, and since when it does."""

    def claim(self, connect: Connect, config: ValidConfig) -> End | str:
        """Claim the last slot. Return how its run will have ended, but for the outcome; or why it is not run.

        One round trip on a new connection if the slot was decided before; otherwise two, and one more with
        ``MIN_REPLICAS``. Waits for another thread that does the same.
        """
        with self._lock:
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
        again = self._claim is not None and self._claim.slot == slot
        if record and record.last >= slot and not again:
            return "waiting" if record.last > records.at + AHEAD * 1000 else "done"
        if not again:
            before = job.schedule.latest(slot - 1)
            self._claim = Claim(job.name, slot, before, new_claim_id(), job.grace_of(slot, before))
        assert self._claim
        blocks = self._going is not None and clock.now() - self._going[1] <= job.max_run
        claim = self._claim._replace(last_run="goes-on" if blocks else "over")
        not_after = records.at / 1000 + timing.operation
        answer: Decisions = lease.ask(once(config.keys, self._process(config), claim, not_after, job.max_run))
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
        return End(0, job.name, slot, claim.claim_id, "failed-to-start", 0.0)

    def ended(self, connect: Connect, config: ValidConfig, end: End) -> None:
        """Record the end of a run. One round trip on a new connection. Log it if that fails."""
        with self._lock:
            if self._going and self._going[0] == end.claim_id:
                self._going = None
            lease = open_lease(connect, config)
            try:
                lease.ask(SlotRequests(config.keys, self._process(config), 0, 0.0).finish([end]))
            except RedisUnavailable as error:
                text = "%s: the end of the job %r could not be recorded: %s"
                log(logging.WARNING, text, self._label, self._job.name, error)
            finally:
                lease.channel.drop()

    def _process(self, config: ValidConfig) -> str:
        return f"{config.instance_id}:{self._nonce}"
