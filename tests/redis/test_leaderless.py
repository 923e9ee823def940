"""Slots without a leader: the claim, on every server."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.job_records import JobRecord, JobRecords, job_records
from django_leader.protocol.jobs import Job
from django_leader.protocol.leaderless import once
from django_leader.protocol.slots import Claim, Decisions, End, SlotRequests, new_claim_id
from django_leader.redis.connector import Connect
from django_leader.redis.lease import Lease as RealLease
from django_leader.runtime import leaderless
from django_leader.runtime.leaderless import LeaderlessClaimer
from django_leader.system import clock
from tests.redis.test_slots import FIELD, KEYS, LATE, MINUTE, RUNS, SLOTS, A, B, Leader, Now, elect, lease, now
from tests.support.lease import Lease

__all__ = ["lease", "now"]  # fixtures


class Told(NamedTuple):
    verdict: str
    last: int = 0
    last_outcome: str = ""


class Process:
    """A process that calls for slots, a minute apart."""

    def __init__(self, lease: Lease, name: str) -> None:
        self.lease, self.name, self.ids = lease, name, dict[int, str]()

    def claim(self, slot: int, late: float = LATE, max_run: float = float("inf"), **options: Any) -> Told:
        self.ids[slot] = options.setdefault("claim_id", new_claim_id())
        claim = Claim("job", slot, **{"before": slot - MINUTE, "grace": 3600.0, **options})
        answer: Decisions = self.lease.lease.ask(once(KEYS, self.name, claim, late, max_run))
        if answer.verdict != "decided":
            return Told(answer.verdict)
        [decision] = answer.each
        assert decision.slot == slot
        return Told(decision.verdict, decision.last, decision.last_outcome)

    def finish(self, slot: int) -> bool:
        end = End(0, "job", slot, self.ids[slot], "ok", 1.5)
        [finished] = self.lease.lease.ask(SlotRequests(KEYS, self.name, 0, 0.0).finish([end]))
        return bool(finished)


@pytest.fixture
def processes(lease: Lease, slot: int) -> tuple[Process, Process]:
    """Two that have known the job for an hour."""
    first, second = Process(lease, A), Process(lease, B)
    assert first.claim(slot - 60 * MINUTE, grace=1e6).verdict == "unknown"
    return first, second


@pytest.fixture
def slot(now: Now) -> int:
    """The minute that has begun last."""
    return now() // MINUTE * MINUTE


def entries(client: Any) -> list[tuple[int, str]]:
    return [(int(fields[b"slot"]), fields[b"outcome"].decode()) for _, fields in client.xrange(RUNS)]


def test_whoever_comes_first_runs_the_slot(processes: tuple[Process, Process], slot: int, client: Any) -> None:
    first, second = processes
    assert first.claim(slot) == Told("run", slot, "none")
    assert second.claim(slot).verdict == "done"
    assert second.claim(slot - MINUTE).verdict == "done", "one whose clock is behind"
    assert first.finish(slot)
    assert second.claim(slot).verdict == "done"
    [record] = first.lease.lease.ask(job_records(KEYS, ["job"])).each
    assert (record.last, record.outcome, record.instance_id, record.token) == (slot, "ok", "a", 0)
    assert entries(client)[-2:] == [(slot - MINUTE, "missed"), (slot, "ok")]


def test_the_first_slot_of_a_job_is_not_run(lease: Lease, slot: int, client: Any) -> None:
    """Nor is the first one after a loss of all data: it may have been run before."""
    process = Process(lease, A)
    assert process.claim(slot).verdict == "unknown"
    assert process.claim(slot).verdict == "done"
    assert entries(client) == [(slot - MINUTE, "unknown"), (slot, "unknown")]
    client.delete(SLOTS)
    assert process.claim(slot).verdict == "unknown"


def test_a_lost_reply_is_given_again(processes: tuple[Process, Process], slot: int, client: Any) -> None:
    first, second = processes
    assert first.claim(slot, claim_id="one").verdict == "run"
    assert first.claim(slot, claim_id="one").verdict == "run"
    assert second.claim(slot, claim_id="two").verdict == "done"
    assert first.claim(slot, claim_id="one", grace=-3600.0).verdict == "missed", "too late by now"
    assert first.claim(slot, claim_id="one").verdict == "done"
    [record] = first.lease.lease.ask(job_records(KEYS, ["job"])).each
    assert (record.why, record.outcome) == ("missed", "missed")


def test_a_copy_that_comes_after_the_end_starts_nothing(processes: tuple[Process, Process], slot: int) -> None:
    first, _ = processes
    first.claim(slot, claim_id="one")
    first.finish(slot)
    assert first.claim(slot, claim_id="one").verdict == "done"


def test_a_slot_is_claimed_in_time(processes: tuple[Process, Process], slot: int, client: Any) -> None:
    first, second = processes
    assert first.claim(slot, late=5).verdict == "late"
    assert first.claim(slot + 10 * MINUTE).verdict == "early"
    assert first.claim(slot, grace=-3600.0).verdict == "missed"
    assert second.claim(slot).verdict == "done"
    assert entries(client)[-1] == (slot, "missed")


def test_a_clock_that_was_set_back_makes_jobs_wait(processes: tuple[Process, Process], slot: int, client: Any) -> None:
    first, _ = processes
    text = client.hget(SLOTS, FIELD).decode()
    before, _, after = text.partition("last=")
    client.hset(SLOTS, FIELD, f"{before}last={slot + 60 * MINUTE}{after[13:]}")
    assert first.claim(slot).verdict == "waiting"


def test_a_run_without_an_end_blocks_for_its_longest_time(
    processes: tuple[Process, Process], slot: int, client: Any
) -> None:
    first, second = processes
    assert first.claim(slot - 2 * MINUTE).verdict == "run"
    assert second.claim(slot - MINUTE, max_run=3600.0) == Told("overlapped", slot - MINUTE, "-")
    assert second.claim(slot) == Told("run", slot, "-")
    assert (slot - 2 * MINUTE, "in-doubt") in entries(client)
    assert not first.finish(slot - 2 * MINUTE)
    assert second.finish(slot)
    assert entries(client)[-2:] == [(slot - 2 * MINUTE, "ok"), (slot, "ok")]


@pytest.mark.parametrize("ended", [False, True])
def test_a_slot_that_is_not_run_leaves_the_record_of_the_last(
    ended: bool, processes: tuple[Process, Process], slot: int
) -> None:
    first, second = processes
    first.claim(slot - MINUTE)
    if ended:
        first.finish(slot - MINUTE)
    assert second.claim(slot, grace=-3600.0).verdict == "missed"
    [record] = first.lease.lease.ask(job_records(KEYS, ["job"])).each
    assert (record.last, record.why, record.slot, record.instance_id) == (slot, "missed", slot - MINUTE, "a")
    assert (record.outcome, record.took) == (("ok", 1500) if ended else ("-", 0))
    assert record.started > 0


@pytest.mark.parametrize("text", ["", "1 last=x process=", "x" * 5000, "1 " + "last=5" * 1000, "2 last=5 process=x"])
def test_a_record_that_cannot_be_read_starts_nothing(lease: Lease, slot: int, client: Any, text: str) -> None:
    client.hset(SLOTS, FIELD, text)
    process = Process(lease, A)
    started = time.monotonic()
    assert process.claim(slot).verdict == "unknown"
    assert time.monotonic() - started < 60
    assert process.claim(slot).verdict == "done"


def test_a_key_of_a_wrong_type_is_an_error(lease: Lease, slot: int, client: Any) -> None:
    client.set(RUNS, "x")
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        Process(lease, A).claim(slot)
    assert not client.exists(SLOTS)


def test_a_leader_and_processes_without_one_start_no_slot_twice(
    processes: tuple[Process, Process], slot: int, lease: Lease, client: Any
) -> None:
    """Two releases may differ in that."""
    first, _ = processes
    leader: Leader = elect(lease, A)
    assert first.claim(slot - MINUTE).verdict == "run"
    assert leader.claim(slot - MINUTE).verdict == "done"
    later = slot + MINUTE
    assert leader.claim(slot, grace=3600.0).verdict in ("in-doubt", "unknown"), "it may have been started"
    assert first.claim(slot).verdict == "done"
    assert first.claim(later).verdict == "early"


CALLS = Config(
    redis_key_name="lock", redis_info_key_name="info", lock_ttl=3, heartbeat_interval=0.4, quarantine=0
).validate()
LONG = 7200.0


class Minute:
    """A schedule whose last slot the test decides."""

    text = "a minute"

    def __init__(self, slot: int) -> None:
        self.slot = slot

    def latest(self, at: int) -> int:
        return self.slot if at >= self.slot else self.slot - MINUTE

    def next(self, after: int) -> int:
        raise NotImplementedError


class Caller:
    """A process that calls."""

    def __init__(self, fleet: Fleet, max_run: float, replicas: int) -> None:
        self._fleet, self._claimer = fleet, LeaderlessClaimer(Job("job", fleet.schedule, LONG, max_run=max_run), "x")
        self._config = replace(CALLS, min_replicas=replicas)

    def call(self) -> End | str:
        return self._claimer.claim(self._fleet.connect, self._config)

    def starts(self) -> End:
        end = self.call()
        assert isinstance(end, End), end
        assert end.slot == self._fleet.schedule.slot
        return end

    def ends(self, end: End) -> None:
        self._claimer.ended(self._fleet.connect, self._config, end._replace(outcome="ok"))


class Fleet:
    """Processes with one job, which was run before, and what goes wrong between them and Redis."""

    def __init__(self, connect: Connect, lease: Lease, slot: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connect, self.lease, self.schedule = connect, lease, Minute(slot - 10 * MINUTE)
        assert Process(lease, A).claim(slot - 60 * MINUTE, grace=1e6).verdict == "unknown"
        self.lost, self.undelivered, self.replicas = set[str](), set[str](), 1
        """Requests whose replies are lost, that do not come to Redis; and how many replicas have what is written."""
        self.sent: list[Any] = []
        self.ask, self.later = RealLease.ask, 0.0

        def ask(lease: RealLease, request: Any) -> Any:
            return self._ask(lease, request)

        monkeypatch.setattr(RealLease, "ask", ask)
        monkeypatch.setattr(leaderless, "clock", SimpleNamespace(now=lambda: clock.now() + self.later))

    def _ask(self, lease: RealLease, request: Any) -> Any:
        name = request.template.name
        self.sent.append(request)
        if name == "WAIT":
            return self.replicas
        reply = None if name in self.undelivered else self.ask(lease, request)
        if name in self.lost | self.undelivered:
            raise RedisUnavailable("no reply")
        return reply

    def process(self, max_run: float = float("inf"), replicas: int = 0) -> Caller:
        return Caller(self, max_run, replicas)

    def next_slot(self) -> None:
        """Let a minute pass, for the processes."""
        self.schedule.slot += MINUTE
        self.later += 60.0

    def record(self) -> JobRecord:
        records: JobRecords = self.ask(self.lease.lease, job_records(KEYS, ["job"]))
        [record] = records.each
        assert record
        return record


@pytest.fixture
def fleet(connect: Connect, lease: Lease, slot: int, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(connect, lease, slot, monkeypatch)


@pytest.mark.parametrize("max_run", [float("inf"), LONG])
def test_j7_a_claim_that_was_never_confirmed_blocks_no_later_slot(fleet: Fleet, max_run: float, client: Any) -> None:
    process, first = fleet.process(max_run), fleet.schedule.slot
    fleet.lost = {"once"}
    assert process.call() == "redis-unavailable"
    fleet.lost.clear()
    fleet.next_slot()
    process.ends(process.starts())
    told = dict(entries(client))
    assert (told[first], told[first + MINUTE]) == ("failed-to-start", "ok")
    assert "in-doubt" not in told.values()


def test_j7_an_unconfirmed_claim_blocks_others_until_its_process_calls(fleet: Fleet) -> None:
    first, second = fleet.process(LONG), fleet.process(LONG)
    fleet.lost = {"once"}
    assert first.call() == "redis-unavailable"
    fleet.lost.clear()
    fleet.next_slot()
    assert second.call() == "overlapped"
    assert first.call() == "done"
    assert fleet.record().outcome == "failed-to-start"
    fleet.next_slot()
    second.starts()


def test_j9_a_claim_with_too_few_replicas_blocks_no_later_slot(fleet: Fleet, client: Any) -> None:
    process, first = fleet.process(LONG, replicas=1), fleet.schedule.slot
    fleet.replicas = 0
    assert [process.call(), process.call()] == ["undecided"] * 2
    fleet.next_slot()
    fleet.replicas = 1
    process.starts()
    assert (first, "failed-to-start") in entries(client)


@pytest.mark.parametrize("fault", ["lost", "undelivered"])
def test_j7_redis_may_be_away_when_it_is_told(fleet: Fleet, fault: str, client: Any) -> None:
    process, first = fleet.process(LONG), fleet.schedule.slot
    fleet.lost = {"once"}
    assert process.call() == "redis-unavailable"
    fleet.next_slot()
    fleet.lost.clear()
    getattr(fleet, fault).update({"jobs"})
    assert process.call() == "redis-unavailable"
    getattr(fleet, fault).add("finish")
    getattr(fleet, fault).remove("jobs")
    assert process.call() == "redis-unavailable"
    getattr(fleet, fault).clear()
    process.starts()
    assert entries(client).count((first, "failed-to-start")) == 1


def test_j7_a_claim_that_redis_never_had_ends_no_other_run(fleet: Fleet, client: Any) -> None:
    first, second = fleet.process(LONG), fleet.process(LONG)
    fleet.undelivered = {"once"}
    assert first.call() == "redis-unavailable"
    fleet.undelivered.clear()
    run = second.starts()
    fleet.next_slot()
    assert first.call() == "overlapped", "by the record"
    second.ends(run)
    assert "failed-to-start" not in dict(entries(client)).values()
    assert fleet.record().outcome == "ok"


def test_j7_an_end_that_was_not_recorded_is_told_again(fleet: Fleet, client: Any) -> None:
    first, second = fleet.process(LONG), fleet.process(LONG)
    end = first.starts()
    fleet.undelivered = {"finish"}
    first.ends(end)
    fleet.undelivered.clear()
    fleet.next_slot()
    first.starts()
    assert (end.slot, "ok") in entries(client)
    fleet.next_slot()
    assert second.call() == "overlapped"


def test_j7_a_claim_is_sent_again_when_the_first_is_too_old(fleet: Fleet) -> None:
    process = fleet.process()
    fleet.undelivered = {"once"}
    assert process.call() == "redis-unavailable"
    fleet.undelivered.clear()
    [copy] = [request for request in fleet.sent if request.template.name == "once"]
    while (found := process.call()) == "undecided":
        pass
    assert isinstance(found, End)
    before = fleet.record()
    assert fleet.ask(fleet.lease.lease, copy).verdict == "late"
    assert fleet.record() == before, "it comes at last, and the run goes on"


@pytest.mark.parametrize("max_run", [float("inf"), LONG])
def test_a_process_whose_run_goes_on_leaves_the_slot_to_others(fleet: Fleet, max_run: float, client: Any) -> None:
    """With ``max_run`` the run of one process blocks the others."""
    first, second = fleet.process(max_run), fleet.process(max_run)
    run = first.starts()
    fleet.next_slot()
    assert first.call() == "overlapped"
    assert fleet.record().last == run.slot, "it has not claimed it"
    assert isinstance(second.call(), End) is (max_run != LONG)
    assert first.call() == "done"
    first.ends(run)


def test_a_slot_may_still_be_run_when_the_run_before_has_ended(fleet: Fleet) -> None:
    process = fleet.process()
    run = process.starts()
    fleet.next_slot()
    assert process.call() == "overlapped"
    process.ends(run)
    process.starts()
