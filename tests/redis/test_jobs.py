"""Jobs in the leader: the loop that claims their slots, and the threads of their runs, on a real server."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.exceptions import LeadershipLost
from django_leader.protocol.jobs import Job
from django_leader.protocol.schedule import Cron
from django_leader.protocol.slots import End, slot_keys
from django_leader.runtime.once import Claimer
from django_leader.runtime.runs import JobSpec, Run, spread
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.1, "quarantine": 0}
Make = Callable[..., LeaderElection]


class Often:
    """A schedule with shorter periods than users may have, in milliseconds."""

    text = "often"

    def __init__(self, period: int = 100) -> None:
        self.period = period

    def latest(self, at: int) -> int:
        return at // self.period * self.period

    def next(self, after: int) -> int:
        return self.latest(after) + self.period


HOURLY = Often(3_600_000)


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    """Makes elections with jobs on a real server, and stops them."""
    made: list[LeaderElection] = []
    some_server.client().flushall()

    def make(*specs: JobSpec, **options: Any) -> LeaderElection:
        client = redis.Redis(port=some_server.port)
        made.append(LeaderElection(client, Config(**{**FAST, **options}), name="test", jobs=lambda: specs))
        return made[-1]

    yield make
    for election in made:
        election.stop()


class Recorder:
    """A job that notes its runs."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def __call__(self, run: Run) -> None:
        self.runs.append(run)

    def slots(self) -> list[float]:
        return [run.scheduled_for.timestamp() for run in self.runs]


def job(call: Callable[[Run], Any], schedule: Any = None, *, jitter: float = 0.0, **options: Any) -> JobSpec:
    return JobSpec(Job("job", schedule or Often(), **{"grace": 60.0, **options}), call, jitter)


def outcomes(server: RedisServer, election: LeaderElection) -> list[tuple[int, str]]:
    """What the stream says, in order: slot and outcome."""
    return [(int(fields[b"slot"]), fields[b"outcome"].decode()) for fields in entries(server, election)]


def entries(server: RedisServer, election: LeaderElection) -> list[dict[bytes, bytes]]:
    """The entries of the stream, in order."""
    client: Any = server.client()
    return [fields for _, fields in client.xrange(slot_keys(election.config.keys)[1])]


def test_j01_each_slot_runs_once_while_leaders_follow_each_other(make: Make, some_server: RedisServer) -> None:
    record = Recorder()
    elections = [make(job(record)) for _ in range(2)]
    for election in elections:
        election.start()
    for _ in range(6):
        [leader] = eventually(lambda: [election for election in elections if election.is_leader()])
        count = len(record.runs)
        eventually(lambda: len(record.runs) > count + 3)  # noqa: B023
        leader.stop()
        leader.start()
    for election in elections:
        election.stop()
    assert max(Counter(record.slots()).values()) == 1
    assert record.slots() == sorted(record.slots())
    ok = {slot / 1000 for slot, outcome in outcomes(some_server, elections[0]) if outcome == "ok"}
    assert ok == set(record.slots())
    assert len({run.token for run in record.runs}) >= 6


def test_j04_every_slot_is_run_or_told(make: Make, some_server: RedisServer) -> None:
    """No slot between the first run and the last is missing from the record."""
    record = Recorder()
    elections = [make(job(record, grace=0.05)) for _ in range(2)]
    for _ in range(3):
        for election in elections:
            election.start()
            assert election.wait_for_leadership(GENEROUS)
            count = len(record.runs)
            eventually(lambda: len(record.runs) > count + 1)  # noqa: B023
            election.stop()
            time.sleep(0.35)  # so that slots are missed
    found = entries(some_server, elections[0])
    first, last = (round(record.slots()[index] * 1000) for index in (0, -1))
    told = set()
    for fields in found:
        slot = int(fields[b"slot"])
        since = max(int(fields.get(b"since", slot - 100)), first - 100)
        told |= set(range(since + 100, slot + 1, 100))
    assert set(range(first, last + 1, 100)) <= told
    assert "missed" in {fields[b"outcome"].decode() for fields in found}


def test_a_run_knows_its_slot_its_term_and_the_run_before(make: Make) -> None:
    record = Recorder()
    election = make(job(record))
    election.start()
    eventually(lambda: len(record.runs) >= 3)
    first, second = record.runs[:2]
    assert election.fencing_token == first.token == second.token
    assert (first.name, first.attempt, first.previous) == ("job", 1, None)
    assert second.previous
    assert (second.previous.scheduled_for, second.previous.outcome) == (first.scheduled_for, "ok")
    assert not second.is_lost()
    election.stop()
    assert second.is_lost()
    with pytest.raises(LeadershipLost, match="term with token"):
        second.raise_if_lost()


def test_a_job_that_raises_is_logged_and_runs_again(make: Make, some_server: RedisServer, caplog: Any) -> None:
    errors: list[BaseException] = [ValueError("a"), SystemExit(3), KeyboardInterrupt(), LeadershipLost("x")]
    record = Recorder()

    def fails(run: Run) -> None:
        record(run)
        raise errors[len(record.runs) % 4]

    election = make(job(fails))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    eventually(lambda: len(record.runs) >= 5)
    assert election.fencing_token == token, "it ends no term"
    eventually(lambda: [outcome for _, outcome in outcomes(some_server, election)].count("failed") >= 4)
    [entry] = [r for r in caplog.records if r.exc_info and isinstance(r.exc_info[1], SystemExit)][:1]
    assert entry.getMessage() == "LEADER_ELECTIONS['test']: the job 'job' failed"
    assert entry.levelno == logging.ERROR


def test_j08_a_slot_during_a_run_is_overlapped(make: Make, some_server: RedisServer) -> None:
    record, go = Recorder(), threading.Event()

    def waits(run: Run) -> None:
        record(run)
        go.wait(GENEROUS)

    election = make(job(waits))
    election.start()
    eventually(lambda: "overlapped" in [outcome for _, outcome in outcomes(some_server, election)])
    assert len(record.runs) == 1
    go.set()
    eventually(lambda: len(record.runs) >= 2)


def test_j08_a_hung_run_does_not_block_the_next(make: Make, some_server: RedisServer) -> None:
    record, go = Recorder(), threading.Event()

    def hangs(run: Run) -> None:
        record(run)
        if len(record.runs) == 1:
            go.wait(GENEROUS)

    election = make(job(hangs, max_run=0.25))
    election.start()
    eventually(lambda: len(record.runs) >= 3)
    go.set()
    told = eventually(lambda: len(found := outcomes(some_server, election)) >= 5 and found)
    slot = round(record.slots()[0] * 1000)
    assert (slot, "hung") in told
    eventually(lambda: (slot, "ok") in outcomes(some_server, election), "it has ended after all")


def test_j08_at_most_three_runs_of_a_job_hang(make: Make, some_server: RedisServer, caplog: Any) -> None:
    record, go = Recorder(), threading.Event()

    def hangs(run: Run) -> None:
        record(run)
        go.wait(GENEROUS)

    election = make(job(hangs, max_run=0.05))
    election.start()
    eventually(lambda: [outcome for _, outcome in outcomes(some_server, election)].count("overlapped") >= 5)
    assert len(record.runs) == 3
    [entry] = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert "the job 'job' was not run: 3 of its runs hang" in entry.getMessage()
    told = [fields[b"outcome"] for fields in entries(some_server, election)]
    assert told.count(b"hung") == 3, "the third is recorded as hung, too"
    go.set()
    eventually(lambda: len(record.runs) > 3)


def test_a_stop_does_not_wait_for_runs_that_hang(make: Make, some_server: RedisServer) -> None:
    began, go = threading.Event(), threading.Event()

    def hangs(run: Run) -> None:
        began.set()
        go.wait()

    elections = [make(job(hangs, HOURLY, in_doubt="rerun", grace=4000, max_run=0.2), lock_ttl=600) for _ in range(2)]
    for election in elections:
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        assert began.wait(GENEROUS)
        election.stop()  # otherwise nobody leads before the lease of ten minutes is over
    go.set()


def test_j08_more_runs_than_threads_do_not_go_on(make: Make, some_server: RedisServer, caplog: Any) -> None:
    lock, most, going, starts = threading.Lock(), [0], [0], Counter[str]()

    def waits(run: Run) -> None:
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
            starts[run.name] += 1
        time.sleep(0.02)
        with lock:
            going[0] -= 1

    specs = [JobSpec(Job(f"job {number}", Often(), 60.0), waits) for number in range(9)]
    election = make(*specs, job_threads=2, lock_ttl=60, heartbeat_interval=5)
    election.start()
    eventually(lambda: len(starts) == 9 and min(starts.values()) >= 3, "each gets its turn")
    assert most[0] == 2


def test_the_log_says_that_jobs_wait_for_threads(make: Make, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_leader.runtime.jobs.PATIENCE", 0.1)
    go = threading.Event()
    busy = JobSpec(Job("busy", HOURLY, 4000, "rerun"), lambda run: go.wait(GENEROUS))
    others = [JobSpec(Job(f"job {number}", HOURLY, 4000, "rerun"), lambda run: None) for number in range(2)]
    election = make(busy, *others, job_threads=1)
    election.start()
    text = "jobs start late: 2 wait for one of the 1 threads for jobs (JOB_THREADS), which are busy with busy"
    eventually(lambda: text in caplog.text)
    go.set()


def test_slots_that_were_left_out_are_logged_once(make: Make, some_server: RedisServer, caplog: Any) -> None:
    record = Recorder()
    elections = [make(job(record, grace=0.05)) for _ in range(2)]
    for election in elections:
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        count = len(record.runs)
        eventually(lambda: len(record.runs) > count + 1)  # noqa: B023
        election.stop()
        time.sleep(0.35)  # so that slots are missed
    lines = [entry.getMessage() for entry in caplog.records if "for the slots from" in entry.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith("the job 'job' was not run: no process has claimed them before a later one was due")


def test_a_stop_waits_for_runs_and_records_their_ends(make: Make, some_server: RedisServer) -> None:
    began, go = threading.Event(), threading.Event()
    lost: list[bool] = []

    def waits(run: Run) -> None:
        began.set()
        run.term.lost.wait(GENEROUS)
        go.wait(0.3)
        lost.append(run.is_lost())

    election = make(job(waits), lock_ttl=60, heartbeat_interval=5)
    election.start()
    assert began.wait(GENEROUS)
    election.stop()
    assert lost == [True]
    assert outcomes(some_server, election)[-1][1] == "ok"


def test_a_run_that_outlasts_its_lease_is_recorded_when_it_ends(make: Make, some_server: RedisServer) -> None:
    began, go = threading.Event(), threading.Event()

    def waits(run: Run) -> None:
        began.set()
        go.wait(GENEROUS)

    election = make(job(waits, HOURLY, in_doubt="rerun", grace=4000), lock_ttl=2, heartbeat_interval=0.3)
    election.start()
    assert began.wait(GENEROUS)
    election.stop()
    assert "ok" not in [outcome for _, outcome in outcomes(some_server, election)]
    go.set()
    eventually(lambda: outcomes(some_server, election)[-1][1] == "ok")


def test_j06_after_a_loss_of_data_nothing_runs_twice(make: Make, some_server: RedisServer) -> None:
    record = Recorder()
    election = make(job(record))
    election.start()
    for _ in range(3):
        count = len(record.runs)
        eventually(lambda: len(record.runs) > count + 2)  # noqa: B023
        some_server.client().flushall()
    count = len(record.runs)
    eventually(lambda: len(record.runs) > count + 2)
    election.stop()
    assert max(Counter(record.slots()).values()) == 1


def test_while_redis_is_away_nothing_starts_and_then_all_goes_on(
    make: Make, some_server: RedisServer, caplog: Any
) -> None:
    record = Recorder()
    caplog.set_level(logging.INFO)
    election = make(job(record), lock_ttl=60, heartbeat_interval=0.3)
    election.start()
    eventually(lambda: len(record.runs) >= 2)
    some_server.freeze()
    try:
        eventually(lambda: "no job can be started" in caplog.text)
    finally:
        some_server.thaw()
    count = len(record.runs)
    eventually(lambda: len(record.runs) > count + 2)
    assert "jobs can be started again" in caplog.text
    assert max(Counter(record.slots()).values()) == 1


def test_an_election_without_jobs_has_no_thread_for_them(make: Make, some_server: RedisServer) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert not election.runs._loops
    assert some_server.client().exists(*slot_keys(election.config.keys)) == 0


def test_without_a_term_no_slot_can_be_claimed(make: Make) -> None:
    election = make()
    assert election.access() is None
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert election.access()
    election.stop()
    assert election.access() is None


def test_j08_at_most_three_calls_of_a_function_hang(make: Make) -> None:
    election = make(lock_ttl=60, heartbeat_interval=5)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    access, claimer = election.access(), Claimer(Job("job", Often(), 60.0, "rerun", 0.01), "test")
    assert access

    def claim(wanted: Callable[[End | str], bool]) -> End | str:
        found: End | str = eventually(lambda: found if wanted(found := claimer.claim(access)) else None)
        return found

    ends = [claim(lambda found: not isinstance(found, str)) for _ in range(3)]
    time.sleep(0.2)  # so that the third is hung, too
    assert [claimer.claim(access), claim(lambda found: found != "done")] == ["overlapped"] * 2
    claimer.ended(access, ends[0])  # type: ignore[arg-type]
    assert claim(lambda found: not isinstance(found, str))


def test_a_forked_child_waits_for_no_claim_of_its_parent() -> None:
    claimer = Claimer(Job("job", Often()), "test")
    with claimer._lock:
        pid = os.fork()
        if not pid:
            os._exit(0 if claimer._lock.acquire(blocking=False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_job_may_stop_the_election(make: Make) -> None:
    returned = threading.Event()

    def stops(run: Run) -> None:
        election.stop()
        returned.set()

    election = make(job(stops))
    election.start()
    assert returned.wait(GENEROUS)
    eventually(lambda: not election.running)


def test_a_job_may_fork(make: Make, some_server: RedisServer) -> None:
    """The child ends as it likes, and nothing of it is recorded."""
    statuses: list[int] = []

    def forks(run: Run) -> None:
        pid = os.fork()
        if not pid:
            os._exit(7)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    election = make(job(forks))
    election.start()
    eventually(lambda: len(statuses) >= 2)
    assert set(statuses) == {7}


def test_coroutine_functions_are_jobs_too(make: Make) -> None:
    record = Recorder()

    async def runs(run: Run) -> None:
        record(run)

    election = make(job(runs))
    election.start()
    eventually(lambda: len(record.runs) >= 2)


def test_jitter_spreads_starts_the_same_way_everywhere(make: Make) -> None:
    record = Recorder()
    election = make(job(record, jitter=0.05))
    election.start()
    eventually(lambda: len(record.runs) >= 2)
    delays = {spread("job", run.scheduled_for, 1.0) for run in record.runs}
    assert len(delays) == len(record.runs)
    assert all(0 <= delay < 1 for delay in delays)


def test_an_idle_loop_does_not_wake_up(make: Make) -> None:
    record = Recorder()
    election = make(job(record, HOURLY, in_doubt="rerun", grace=4000))
    election.start()
    eventually(lambda: record.runs)
    waits: list[float] = []
    real = election.runs.wait

    def wait(seconds: float) -> None:
        waits.append(seconds)
        real(seconds)

    election.runs.wait = wait  # type: ignore[method-assign]
    election.runs.wake()
    eventually(lambda: waits)
    time.sleep(1.5)  # several heartbeats
    assert len(waits) == 1
    assert waits[0] > 1


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(os.fsdecode(b"/srv/\xff.csv")), Unprintable()], ids=["path", "none"]
)
def test_an_exception_without_a_text_holds_no_other_job(
    make: Make, some_server: RedisServer, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_leader.runtime.runs.log", lambda *args, **kwargs: None)  # pytest cannot show it either
    record = Recorder()

    def fails(run: Run) -> None:
        raise error

    other = JobSpec(Job("other", Often(), 60.0), record)
    election = make(job(fails), other)
    election.start()
    eventually(lambda: [outcome for _, outcome in outcomes(some_server, election)].count("failed") >= 2)
    count = len(record.runs)
    eventually(lambda: len(record.runs) > count + 2)


def test_an_end_that_redis_refuses_delays_no_stop(make: Make, some_server: RedisServer) -> None:
    """Nor does it keep this process out of the election."""
    record = Recorder()
    election = make(job(record), lock_ttl=60, heartbeat_interval=5)
    election.start()
    eventually(lambda: len(record.runs) >= 2)
    runs = slot_keys(election.config.keys)[1]
    some_server.client().delete(runs)
    some_server.client().set(runs, "of another type")
    election.resign()
    assert election.wait_for_leadership(GENEROUS)
    some_server.client().delete(runs)
    count = len(record.runs)
    eventually(lambda: len(record.runs) > count + 2)


def test_an_end_that_was_not_told_is_told_in_the_next_term(make: Make, start_server: Any) -> None:
    """So that this process does not start its own run again."""
    server = start_server()
    record, go = Recorder(), threading.Event()

    def waits(run: Run) -> None:
        record(run)
        go.wait(GENEROUS)

    spec = job(waits, HOURLY, in_doubt="rerun", grace=4000)
    client = redis.Redis(port=server.port)
    options: dict[str, Any] = {**FAST, "lock_ttl": 2.0}
    election = LeaderElection(client, Config(**options), name="test", jobs=lambda: [spec])
    try:
        election.start()
        eventually(lambda: record.runs)
        server.freeze()
        eventually(lambda: not election.is_leader())
        go.set()
        eventually(lambda: not election.runs.names())
        server.thaw()
        assert election.wait_for_leadership(GENEROUS)
        eventually(lambda: (round(record.slots()[0] * 1000), "ok") in outcomes(server, election))
        assert len(record.runs) == 1
    finally:
        server.thaw()
        election.stop()


def test_j08_a_hung_run_of_an_earlier_term_is_not_started_again(make: Make, some_server: RedisServer) -> None:
    record, go = Recorder(), threading.Event()

    def hangs(run: Run) -> None:
        record(run)
        go.wait(GENEROUS)

    election = make(job(hangs, HOURLY, in_doubt="rerun", grace=4000, max_run=0.1), lock_ttl=1)
    election.start()
    eventually(lambda: record.runs)
    election.resign()
    eventually(lambda: len({fields[b"token"] for fields in entries(some_server, election)}) and election.is_leader())
    eventually(lambda: "hung" in [outcome for _, outcome in outcomes(some_server, election)])
    go.set()
    assert len(record.runs) == 1


def test_a_run_that_jitter_has_kept_from_starting_has_not_failed(
    make: Make, some_server: RedisServer, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    record = Recorder()
    election = make(job(record, HOURLY, in_doubt="rerun", grace=4000, jitter=3600.0))
    election.start()
    eventually(lambda: election.runs.names())
    election.stop()
    eventually(lambda: outcomes(some_server, election)[-1][1] == "failed-to-start")
    assert record.runs == []
    assert "the job 'job' was not started: the term ended before" in caplog.text


def test_j10_a_forged_record_stops_only_its_job(make: Make, some_server: RedisServer) -> None:
    record = Recorder()
    cron = JobSpec(Job("cron", Cron("* * * * *"), 60.0), Recorder())
    election = make(cron, job(record))
    some_server.client().hset(
        slot_keys(election.config.keys)[0],
        "job:cron",
        "1 last=900000000000000 doubt=0 slot=0 token=0 started=0 attempt=0 took=0 why=run memory=x claim=- policy=skip "
        "outcome=none process=",
    )
    election.start()
    eventually(lambda: len(record.runs) >= 3)
