"""``@once_per_slot(election=None)``: no leader is needed, and the first call runs the slot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from django_leader import NotRun, UnknownElection, elections, once_per_slot, periodic
from django_leader.exceptions import RedisUnavailable
from django_leader.job_checks import check_jobs
from django_leader.protocol.slots import slot_keys
from django_leader.redis.lease import Lease
from django_leader.testing import leading, slots
from tests.django.test_jobs import no_jobs, run_command  # noqa: F401
from tests.support.servers import GENEROUS, RedisServer, eventually

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)
KNOWN = (
    "1 last=1000 doubt=0 slot=1000 token=0 started=1 attempt=1 took=5 why=run memory=- claim=c policy=skip outcome=ok"
)


@pytest.fixture
def known(project: Settings, some_server: RedisServer) -> Settings:
    """A project whose job has run before."""
    some_server.client().flushall()
    some_server.client().hset(slot_keys(elections["default"].config.keys)[0], "job:job", f"{KNOWN} process=x")
    return project


def hourly(**options: Any) -> Any:
    return once_per_slot(every=3600, grace=3600, name="job", election=None, **options)


def test_processes_that_call_run_a_slot_once(known: Settings) -> None:
    calls: list[int] = []

    def count(number: int) -> int:
        calls.append(number)
        return number

    tick = hourly()(count)
    assert tick(1) == 1
    assert tick(2) == NotRun("done")
    other = _in_child(lambda: tick(3))
    assert other == "NotRun(reason='done')"
    assert calls == [1]
    status, out, _ = run_command("--json")
    [row] = json.loads(out)
    assert (status, row["job"], row["election"], row["outcome"], row["token"]) == (0, "job", None, "ok", None)
    assert row["by"] == elections["default"].config.instance_id
    assert run_command("default")[1].splitlines()[1].split()[:2] == ["job", "-"]
    assert not elections["default"].is_leader()


def _in_child(function: Any) -> str:
    """What it returns in a fork of this process."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as stream:
        return stream.read()


def test_each_slot_is_run_once_by_several_processes(known: Settings, some_server: RedisServer) -> None:
    client: Any = some_server.client()
    stream = slot_keys(elections["default"].config.keys)[1]

    def ran() -> list[int]:
        return [int(fields[b"slot"]) for _, fields in client.xrange(stream) if fields[b"outcome"] == b"ok"]

    tick = once_per_slot(every=1, grace=3600, name="job", election=None)(lambda: "ran")
    children = []
    client.set("go-on", 1)
    for _ in range(4):
        if (child := os.fork()) == 0:
            try:
                while client.exists("go-on"):
                    tick()
            finally:
                os._exit(0)
        children.append(child)
    try:
        eventually(lambda: len(ran()) >= 4)
    finally:
        client.delete("go-on")
        for child in children:
            os.waitpid(child, 0)
    assert len(ran()) == len(set(ran()))


def test_the_first_slot_of_a_job_is_unknown(project: Settings, some_server: RedisServer) -> None:
    some_server.client().flushall()
    tick = hourly()(lambda: "ran")
    assert (tick(), tick()) == (NotRun("unknown"), NotRun("done"))


def test_what_it_raises_is_recorded_and_raised(known: Settings, some_server: RedisServer) -> None:
    async def raises() -> None:
        raise ValueError("why")

    fails = hourly()(raises)
    with pytest.raises(ValueError, match="why"):
        asyncio.run(fails())
    client: Any = some_server.client()
    [(_, entry)] = client.xrevrange(slot_keys(elections["default"].config.keys)[1], count=1)
    assert (entry[b"outcome"], entry[b"error"]) == (b"failed", b"ValueError: why")
    assert asyncio.run(fails()) == NotRun("done")


def test_threads_that_call_at_a_time_run_it_once(known: Settings) -> None:
    results: list[Any] = []
    tick = hourly()(lambda: "ran")
    threads = [threading.Thread(target=lambda: results.append(tick())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GENEROUS)
    assert sorted(map(str, results)) == ["NotRun(reason='done')"] * 7 + ["ran"]


def test_a_call_during_a_run_is_overlapped_unless_that_hangs(known: Settings) -> None:
    began, go, results = threading.Event(), threading.Event(), list[Any]()

    def waits() -> str:
        if not began.is_set():
            began.set()
            go.wait(GENEROUS)
        return "ended"

    tick = once_per_slot(every=1, grace=3600, name="job", election=None)(waits)
    thread = threading.Thread(target=lambda: results.append(tick()))
    thread.start()
    assert began.wait(GENEROUS)
    while (other := tick()) == NotRun("done"):
        pass
    assert other == NotRun("overlapped")
    go.set()
    thread.join(GENEROUS)
    while (other := tick()) == NotRun("done"):
        pass
    assert (results, other) == (["ended"], "ended")


def test_a_lost_answer_is_asked_for_again(known: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tick, ask, lost = hourly()(lambda: "ran"), Lease.ask, list[str]()

    def loses(lease: Lease, request: Any) -> Any:
        found = ask(lease, request)
        if request.template.name == "once" and not lost:
            lost.append("once")
            raise RedisUnavailable("the reply is lost")
        return found

    monkeypatch.setattr(Lease, "ask", loses)
    assert tick() == NotRun("redis-unavailable")
    assert _in_child(tick) == "NotRun(reason='done')", "a child does not know the claim"
    while (found := tick()) == NotRun("undecided"):
        pass  # the first request may still be executed
    assert found == "ran"
    assert tick() == NotRun("done")


def _status(child: int) -> int:
    """How a fork has ended."""
    try:
        [(_, status)] = eventually(lambda: [one for one in [os.waitpid(child, os.WNOHANG)] if one[0]], "a child ends")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return int(status)


@pytest.mark.parametrize("kind", ["a function", "a coroutine function", "in the leader"])
def test_s19_a_child_that_a_run_forks_does_not_end_it(
    known: Settings, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Another thread may claim meanwhile, whose lock the child would wait for."""
    if kind == "in the leader":
        some_server.client().flushall()
        elections["default"].start()
        assert elections["default"].wait_for_leadership(GENEROUS)
    began, claims, go = threading.Event(), threading.Event(), threading.Event()
    ask, parent, seen = Lease.ask, os.getpid(), list[Any]()

    client: Any = some_server.client()
    stream = slot_keys(elections["default"].config.keys)[1]

    def outcomes() -> int:
        return [fields[b"outcome"] for _, fields in client.xrange(stream)].count(b"ok")

    def waits(lease: Lease, request: Any) -> Any:
        if request.template.name == "jobs" and began.is_set():
            claims.set()
            go.wait(GENEROUS)
        return ask(lease, request)

    def forks() -> str:
        began.set()
        thread.start()
        assert kind == "in the leader" or claims.wait(GENEROUS)
        if child := os.fork():
            try:
                status = _status(child)
            finally:
                go.set()
            seen.append((status, outcomes()))
        return "ran"

    async def forks_in_a_coroutine() -> str:
        return forks()

    decorate: Any = once_per_slot(every=3600, grace=3600, in_doubt="rerun", name="job")
    decorate = decorate if kind == "in the leader" else hourly()
    guarded = decorate(forks_in_a_coroutine if kind == "a coroutine function" else forks)

    def tick() -> Any:
        if kind != "a coroutine function":
            return guarded()
        loop = asyncio.new_event_loop()
        found = loop.run_until_complete(guarded())
        if os.getpid() == parent:  # in a child asyncio would wait for the threads of its parent
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        return found

    thread = threading.Thread(target=tick)
    monkeypatch.setattr(Lease, "ask", waits)
    found = None
    try:
        found = tick()
    finally:
        if os.getpid() != parent:
            os._exit(int(found != "ran"))
    thread.join(GENEROUS)
    assert (found, outcomes()) == ("ran", 1)
    assert seen == [(0, 0)], "the child has returned, and has not recorded it"


@pytest.mark.parametrize("enough", [False, True])
def test_a_claim_counts_when_enough_replicas_have_it(
    known: Settings, monkeypatch: pytest.MonkeyPatch, enough: bool
) -> None:
    known.LEADER_ELECTIONS["default"]["MIN_REPLICAS"] = 1
    elections.reset()
    tick, ask, counts = hourly()(lambda: "ran"), Lease.ask, [0]

    def answers(lease: Lease, request: Any) -> Any:
        return counts[0] if request.template.name == "WAIT" else ask(lease, request)

    monkeypatch.setattr(Lease, "ask", answers)
    counts[0] = int(enough)
    assert tick() == ("ran" if enough else NotRun("undecided"))
    counts[0] = 1
    assert tick() == (NotRun("done") if enough else "ran")


def test_redis_that_is_away_runs_nothing(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
    settings.LEADER_ELECTIONS = {"default": {}}
    assert hourly()(lambda: "ran")() == NotRun("redis-unavailable")
    assert "the job 'job' cannot be started: " in caplog.text


def test_the_end_that_cannot_be_recorded_is_logged(
    known: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask = Lease.ask

    def fails(lease: Lease, request: Any) -> Any:
        if request.template.name == "finish":
            raise RedisUnavailable("away")
        return ask(lease, request)

    monkeypatch.setattr(Lease, "ask", fails)
    assert hourly()(lambda: "ran")() == "ran"
    assert "the end of the job 'job' could not be recorded: away" in caplog.text


def test_it_uses_the_redis_of_another_election(known: Settings, some_server: RedisServer) -> None:
    known.LEADER_ELECTIONS["reports"] = {"REDIS_KEY_NAME": "reports"}
    tick = hourly(using="reports")(lambda: "ran")
    assert tick() == NotRun("unknown")
    assert some_server.client().hexists("{reports}:slots", "job:job")
    with pytest.raises(UnknownElection):
        hourly(using="other")(lambda: "ran")()


def test_a_local_election_decides_within_the_process(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    tick = once_per_slot(every=1, grace=3600, name="job", election=None)(lambda: "ran")
    assert tick() == NotRun("unknown")
    while (found := tick()) == NotRun("done"):
        pass
    assert found == "ran"


def test_what_needs_a_leader_is_refused() -> None:
    declare: Any = once_per_slot
    with pytest.raises(ValueError, match="in_doubt='rerun' needs a leader"):
        declare(every=60, election=None, in_doubt="rerun")
    with pytest.raises(TypeError, match="using belongs to election=None"):
        declare(every=60, using="reports")
    with pytest.raises(TypeError, match="election is 5"):
        declare(every=60, election=None, using=5)


def test_the_checks_know_that_no_leader_is_needed(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {"RETRY_INTERVAL": 2}}
    once_per_slot(every=1, election=None, name="often")(lambda: None)
    assert check_jobs() == []
    once_per_slot(every=60, election=None, using="other", name="lost")(lambda: None)
    [message] = check_jobs()
    assert message.id == "django_leader.E022"
    assert message.hint == "With election=None give it one of these as using=: 'default'."
    periodic(every=60, name="often")(twice)
    assert "django_leader.E021" in [message.id for message in check_jobs()], "they share a record"


def twice() -> None:
    """A job."""


def test_the_leader_is_not_asked_to_run_it(project: Settings) -> None:
    hourly()(lambda: None)
    with pytest.raises(CommandError, match="@once_per_slot"):
        call_command("leader_jobs", "--run", "job")


def test_a_test_decides_what_is_run(settings: Settings) -> None:
    """Redis is not asked."""
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
    settings.LEADER_ELECTIONS = {"default": {}}
    tick = hourly()(lambda: "ran")
    with slots(at=NOON):
        assert (tick(), tick()) == ("ran", NotRun("done"))
    with slots(at=NOON + timedelta(hours=1)):
        assert tick() == "ran"
    with slots(verdict="missed"):
        assert tick() == NotRun("missed")
    with leading():
        assert (tick(), tick()) == ("ran", NotRun("done"))
