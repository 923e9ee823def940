"""Orders to run a job now: the scripts on every server, and a leader that carries them out."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import inbox
from django_leader.protocol.jobs import Job
from django_leader.protocol.orders import Look, Order, give, look, order_key, received
from django_leader.protocol.slots import End, Outcome
from django_leader.runtime.orders import Carried, run_now
from django_leader.runtime.runs import JobSpec, Run
from tests.redis.test_jobs import HOURLY, Make, Recorder, entries, job, make
from tests.redis.test_slots import CONFIG, KEYS, LATE, RUNS, SLOTS, A, B, Leader, Now, elect, leader, lease, now
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, RedisServer, eventually

__all__ = ["leader", "lease", "make", "now"]  # fixtures

ORDER = Order("order1", "job", "anna@laptop")
KEY = order_key(KEYS, "order1")


def seen(lease: Lease, *, withdraw: bool = False) -> Look:
    found: Look = lease.lease.ask(look(KEYS, "order1", withdraw=withdraw))
    return found


def given(lease: Lease, *, order: Order = ORDER, not_after: float = LATE) -> str:
    return str(lease.lease.ask(give(CONFIG, order, seen(lease), not_after)))


def taken(leader: Leader, last_run: Any = "over", *, late: float = LATE, order: Order = ORDER) -> str:
    return str(leader.lease.lease.ask(leader.requests.take(order, last_run, late)).verdict)


def ended(leader: Leader, outcome: Outcome = "ok", error: str = "") -> bool:
    at = seen(leader.lease).given
    end = End(leader.token, "job", at, "order1", outcome, 1.5, error, ORDER)
    [finished] = leader.lease.lease.ask(leader.requests.finish([end]))
    return bool(finished)


def test_an_order_is_a_message_to_the_leader(leader: Leader, client: Any) -> None:
    assert given(leader.lease) == "given"
    found = seen(leader.lease)
    assert (found.holder, found.token, found.state) == (A, leader.token, "waiting")
    assert found.given == pytest.approx(found.at * 1000, abs=60_000)
    [message] = client.lrange(inbox(KEYS, A), 0, -1)
    assert received(json.loads(message)) == ORDER
    assert 0 < client.pttl(KEY) <= 86_400_000


def test_an_order_that_is_sent_twice_is_given_once(leader: Leader, client: Any) -> None:
    known = seen(leader.lease)
    for _ in range(2):
        assert leader.lease.lease.ask(give(CONFIG, ORDER, known, LATE)) == "given"
    assert client.llen(inbox(KEYS, A)) == 1


def test_nobody_is_given_an_order_that_does_not_lead(leader: Leader, client: Any) -> None:
    known = seen(leader.lease)
    for other in (known._replace(holder=B), known._replace(token=known.token - 1)):
        assert leader.lease.lease.ask(give(CONFIG, ORDER, other, LATE)) == "changed"
    assert given(leader.lease, not_after=known.at - 1) == "late"
    client.hset(KEYS.state, "until", 5)
    assert leader.lease.lease.ask(give(CONFIG, ORDER, known, LATE)) == "changed"
    assert seen(leader.lease).holder == ""
    assert not client.exists(KEY, inbox(KEYS, A), inbox(KEYS, B))


def test_j11_an_order_is_taken_once_and_is_no_slot(leader: Leader, client: Any, now: Now) -> None:
    slot = now() // 60_000 * 60_000
    leader.claim(slot)
    record = client.hgetall(SLOTS)
    assert given(leader.lease) == "given"
    assert taken(leader) == "run"
    assert taken(leader) == "run", "the reply was lost, so nothing was started"
    assert seen(leader.lease).state == "taken"
    assert ended(leader, "failed", "ValueError: x")
    assert ended(leader, "failed", "ValueError: x"), "the reply was lost"
    assert taken(leader) == "gone"
    found = seen(leader.lease)
    assert (found.state, found.took, found.error, found.instance_id) == ("failed", 1.5, "ValueError: x", "a")
    [(_, entry)] = client.xrange(RUNS)[-1:]
    assert (entry[b"outcome"], entry[b"by"], int(entry[b"slot"])) == (b"failed", b"anna@laptop", found.given)
    assert [fields.get(b"by") for _, fields in client.xrange(RUNS)].count(b"anna@laptop") == 1
    assert client.hgetall(SLOTS) == record


def test_j02_j11_only_the_term_that_was_meant_takes_an_order(leader: Leader, client: Any) -> None:
    given(leader.lease)
    client.hset(KEYS.state, "until", 5)
    assert taken(leader) == "stale"
    client.hset(KEYS.state, "until", 9_000_000_000_000)
    state = client.hgetall(KEYS.state)
    leader.lease.release(A, leader.token, "resigned", leave=False)
    later = elect(leader.lease, A)
    assert taken(leader) == "stale"
    assert taken(later) == "gone", "the same process, but another term"
    client.hset(KEYS.state, mapping=state)
    assert taken(leader) == "run"


@pytest.mark.parametrize("again", [False, True])
def test_j11_what_is_too_old_is_not_started(again: bool, leader: Leader, client: Any) -> None:
    given(leader.lease)
    assert taken(leader, late=5) == "late"
    if again:
        assert taken(leader) == "run"
    client.hset(KEY, "not_after", 5)
    assert taken(leader) == "gone"
    assert seen(leader.lease).state == "withdrawn"


def test_j11_what_was_withdrawn_is_not_started(leader: Leader, client: Any) -> None:
    given(leader.lease)
    assert seen(leader.lease, withdraw=True).state == "withdrawn"
    assert taken(leader) == "gone"
    assert given(leader.lease) == "given", "a copy, which changes nothing"
    assert seen(leader.lease).state == "withdrawn"
    client.delete(KEY)
    given(leader.lease)
    assert taken(leader) == "run"
    assert seen(leader.lease, withdraw=True).state == "taken", "it has begun"


@pytest.mark.parametrize(("last_run", "verdict"), [("over", "run"), ("goes-on", "overlapped"), ("absent", "absent")])
def test_j08_j11_an_order_during_a_run_is_overlapped(last_run: Any, verdict: str, leader: Leader, client: Any) -> None:
    given(leader.lease)
    assert taken(leader, last_run) == verdict
    assert seen(leader.lease).state == ("taken" if verdict == "run" else verdict)
    told = [(fields[b"outcome"], fields[b"by"]) for _, fields in client.xrange(RUNS)]
    assert told == ([(b"overlapped", b"anna@laptop")] if verdict == "overlapped" else [])
    if verdict != "run":
        assert taken(leader) == "gone"


def test_j11_a_slot_took_its_place_before_the_order_is_taken_again(leader: Leader) -> None:
    """The reply was lost, and meanwhile a slot of the job was started."""
    given(leader.lease)
    assert taken(leader) == "run"
    assert taken(leader, "goes-on") == "overlapped"
    assert taken(leader) == "gone"


def test_j10_j11_a_forged_order_starts_nothing_that_was_not_asked_for(leader: Leader, client: Any) -> None:
    given(leader.lease)
    for field, value in {"name": "other", "what": "else", "token": "5", "not_after": "x", "state": "x"}.items():
        kept = client.hget(KEY, field)
        client.hset(KEY, field, value)
        assert taken(leader) == "gone"
        client.hset(KEY, mapping={field: kept, "state": "waiting"})
    client.hset(KEY, mapping={"at": "9" * 400, "by": "b" * 5000})
    answer = leader.lease.lease.ask(leader.requests.take(ORDER, "over", LATE))
    assert (answer.verdict, answer.given) == ("run", 0)


def test_j10_j11_an_order_of_another_type_stops_no_other(leader: Leader, client: Any) -> None:
    """Redis refused the request, which was sent again for ever, so that no end and no claim left any more."""
    assert given(leader.lease) == "given"
    client.delete(KEY)
    client.set(KEY, "forged")
    assert taken(leader) == "gone"
    ends = [
        End(leader.token, "job", 60_000, "order1", "ok", 1.5, "", ORDER),
        End(leader.token, "job", 60_000, "nobody", "ok", 1.5),
    ]
    assert leader.lease.lease.ask(leader.requests.finish(ends)) == [False, False]
    told = [entry[b"outcome"] for _, entry in client.xrange(RUNS)]
    assert (told, client.get(KEY)) == ([b"ok", b"ok"], b"forged")


def test_an_end_makes_a_lost_order_anew(leader: Leader, client: Any) -> None:
    given(leader.lease)
    taken(leader)
    client.delete(KEY)
    assert not ended(leader)
    assert seen(leader.lease).state == "ok"
    assert client.pttl(KEY) > 0
    assert taken(leader) == "gone"


# With a leader


class Asked:
    """A request to run a job now, in a thread of its own."""

    def __init__(self, election: LeaderElection, name: str = "job", timeout: float = GENEROUS) -> None:
        self.found: list[Carried] = []
        self.thread = threading.Thread(target=self._run, args=(election, name, timeout))
        self.thread.start()

    def _run(self, election: LeaderElection, name: str, timeout: float) -> None:
        self.found.append(run_now(election, name, "anna@laptop", timeout))

    def result(self) -> Carried:
        self.thread.join(2 * GENEROUS)
        return self.found[0]


def begun(make: Make, *specs: JobSpec) -> LeaderElection:
    """A leader whose lease does not run out, and a process that is none."""
    election = make(*specs, lock_ttl=60.0)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    return election


def test_j11_the_leader_runs_a_job_now(make: Make, some_server: RedisServer) -> None:
    record = Recorder()
    election = begun(make, job(record, HOURLY, jitter=1e9))
    carried = Asked(make()).result()
    assert carried.outcome == "ok"
    [run] = record.runs
    assert (run.requested_by, run.attempt, run.previous, run.token) == (
        "anna@laptop", 1, None, election.fencing_token,
    )  # fmt: skip
    assert round(run.scheduled_for.timestamp() * 1000) == carried.look.given
    assert carried.look.instance_id == election.instance_id
    [entry] = [fields for fields in entries(some_server, election) if fields[b"outcome"] == b"ok"]
    assert entry[b"by"] == b"anna@laptop"
    [told] = election.job_records(["job"]).each
    assert told is None or told.slot == 0, "it is no slot"


def test_a_job_that_was_asked_for_may_fail(make: Make) -> None:
    def fails(run: Run) -> None:
        raise ValueError("why")

    begun(make, job(fails, HOURLY))
    carried = Asked(make()).result()
    assert (carried.outcome, carried.look.error) == ("failed", "ValueError: why")


def test_j08_j11_runs_and_orders_overlap_each_other(make: Make, some_server: RedisServer) -> None:
    record, go = Recorder(), threading.Event()

    def waits(run: Run) -> None:
        record(run)
        go.wait(GENEROUS)

    election = begun(make, job(waits, HOURLY), JobSpec(Job("often", HOURLY), lambda run: None))
    first = Asked(make())
    eventually(lambda: record.runs)
    assert Asked(make()).result().outcome == "overlapped"
    assert Asked(make(), "often").result().outcome == "ok", "another job is not concerned"
    assert Asked(make(), "absent").result().outcome == "absent"
    go.set()
    assert first.result().outcome == "ok"
    assert len(record.runs) == 1
    assert election.is_leader()


def test_j08_j11_a_slot_during_an_order_is_overlapped(make: Make, some_server: RedisServer) -> None:
    record, go, ordered = Recorder(), threading.Event(), threading.Event()

    def waits(run: Run) -> None:
        record(run)
        if run.requested_by:
            ordered.set()
            go.wait(GENEROUS)

    election = begun(make, job(waits))

    def is_asked() -> bool:  # it may come during the short run of a slot
        return Asked(make()).result().outcome == "ok"

    thread = threading.Thread(target=lambda: eventually(is_asked))
    thread.start()
    assert ordered.wait(GENEROUS)
    eventually(
        lambda: any(
            fields[b"outcome"] == b"overlapped" and b"by" not in fields for fields in entries(some_server, election)
        )
    )
    go.set()
    thread.join(2 * GENEROUS)
    assert not thread.is_alive()


def test_nobody_leads(make: Make) -> None:
    assert run_now(make(), "job", "anna", 5).outcome == "nobody-leads"


def test_a_leader_without_jobs_takes_no_order(make: Make) -> None:
    """The request is withdrawn at the end of the timeout, which is shorter than the lease."""
    begun(make)
    assert run_now(make(), "job", "anna", 0.2).outcome == "withdrawn"


def test_the_end_of_the_term_withdraws_an_order(make: Make) -> None:
    election, slept = begun(make), list[float]()

    def sleep(seconds: float) -> None:
        if not slept:
            election.stop()
        slept.append(seconds)

    assert run_now(make(lock_ttl=60.0), "job", "anna", 1000, sleep).outcome == "withdrawn"
    assert len(slept) <= 2, "at once"


def test_a_run_that_goes_on_is_said_to_do_so(make: Make) -> None:
    go, started = threading.Event(), threading.Event()

    def waits(run: Run) -> None:
        started.set()
        go.wait(GENEROUS)

    begun(make, job(waits, HOURLY))
    asker = make(lock_ttl=60.0)
    carried = run_now(asker, "job", "anna", 1.0, lambda seconds: started.wait(GENEROUS))
    go.set()
    assert carried.outcome == "running"


def test_an_order_that_was_lost_is_unknown(make: Make, some_server: RedisServer) -> None:
    begun(make)
    client: Any = some_server.client()

    def sleep(seconds: float) -> None:
        for key in client.keys("*order:*"):
            client.delete(key)

    assert run_now(make(), "job", "anna", 0.3, sleep).outcome == "unknown"


def test_an_answer_that_does_not_come_is_asked_for_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to the order is lost, and then Redis is unreachable for a moment."""
    record = Recorder()
    begun(make, job(record, HOURLY))
    asker = make()
    give, look, asked = asker.give, asker.look, list[str]()

    def lost(*args: Any) -> str:
        give(*args)
        raise RedisUnavailable("a reply")

    def fails(order_id: str, **options: Any) -> Look:
        asked.append(order_id)
        if len(asked) == 2:
            raise RedisUnavailable("for a moment")
        return look(order_id, **options)

    monkeypatch.setattr(asker, "give", lost)
    monkeypatch.setattr(asker, "look", fails)
    assert run_now(asker, "job", "anna", GENEROUS).outcome == "ok"
    assert len(record.runs) == 1


def test_redis_that_stays_away_is_an_error(make: Make) -> None:
    away = LeaderElection(redis.Redis(port=1), Config())
    with pytest.raises(RedisUnavailable):
        run_now(away, "job", "anna", 5)
