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
from django_leader.protocol.slots import slot_keys
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
    assert not [thread for thread in threading.enumerate() if "gain" in thread.name and "test" in thread.name]
    assert not election.runs._loops
    assert some_server.client().exists(*slot_keys(election.config.keys)) == 0


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
