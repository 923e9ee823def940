"""Slots without a leader: the claim, on every server."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytest

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.job_records import job_records
from django_leader.protocol.leaderless import once
from django_leader.protocol.slots import Claim, Decisions, End, SlotRequests, new_claim_id
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


def test_a_run_that_goes_on_in_the_process_blocks(processes: tuple[Process, Process], slot: int) -> None:
    first, _ = processes
    assert first.claim(slot - MINUTE).verdict == "run"
    assert first.claim(slot, last_run="goes-on").verdict == "overlapped"
    assert first.finish(slot - MINUTE), "its record still stands"


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
