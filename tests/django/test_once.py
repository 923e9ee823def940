"""``@once_per_slot``: a function that is called everywhere runs once in each slot. Helpers for tests of jobs."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pytest_django import Settings

from django_leader import NotRun, Run, UnknownElection, elections, once_per_slot, periodic
from django_leader.protocol.slots import slot_keys
from django_leader.registry import jobs
from django_leader.testing import following, leading, run_job, slots
from tests.django.test_jobs import no_jobs, run_command  # noqa: F401
from tests.support.servers import GENEROUS, RedisServer

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def local(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}


def lead() -> None:
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)


def test_a_slot_runs_once_however_often_it_is_called(project: Settings, some_server: RedisServer) -> None:
    some_server.client().flushall()
    calls: list[int] = []

    @once_per_slot(every=3600, in_doubt="rerun", grace=3600, name="job")
    def tick(number: int, *, twice: bool = False) -> int:
        calls.append(number)
        return number * 2 if twice else number

    assert tick(1) == NotRun("not-leading")
    lead()
    assert tick(2, twice=True) == 4
    assert tick(3) == NotRun("done")
    assert calls == [2]
    [shown] = json.loads(run_command("--json")[1])
    assert (shown["job"], shown["outcome"], shown["decision"]) == ("job", "ok", "run")
    elections["default"].stop()
    lead()
    assert tick(4) == NotRun("done"), "nor in the next term"


def test_what_the_function_raises_is_recorded_and_raised(project: Settings, some_server: RedisServer) -> None:
    some_server.client().flushall()

    @once_per_slot(every=3600, in_doubt="rerun", grace=3600)
    def fails() -> None:
        raise ValueError("a job")

    lead()
    with pytest.raises(ValueError, match="a job"):
        fails()
    client: Any = some_server.client()
    fields = client.xrevrange(slot_keys(elections["default"].config.keys)[1], count=1)[0][1]
    assert (fields[b"outcome"], fields[b"error"]) == (b"failed", b"ValueError: a job")
    assert fails() == NotRun("done")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_without_a_text_is_raised_and_ends_the_run(local: None) -> None:
    @once_per_slot(every=1, grace=3600, in_doubt="rerun")
    def fails() -> None:
        raise Unprintable

    lead()
    with pytest.raises(Unprintable):
        fails()
    while (again := _called(fails)) == NotRun("done"):
        pass
    assert again is Unprintable, "not overlapped for ever"


def _called(function: Any) -> Any:
    try:
        return function()
    except Unprintable:
        return Unprintable


def test_a_coroutine_function_is_guarded_too(project: Settings, some_server: RedisServer) -> None:
    some_server.client().flushall()

    @once_per_slot(every=3600, in_doubt="rerun", grace=3600)
    async def tick(number: int) -> int:
        await asyncio.sleep(0)
        return number

    lead()
    assert asyncio.run(tick(1)) == 1
    assert asyncio.run(tick(2)) == NotRun("done")


def test_a_call_during_a_run_is_overlapped(local: None) -> None:
    began, go = threading.Event(), threading.Event()

    @once_per_slot(every=1, grace=3600, in_doubt="rerun")
    def waits() -> str:
        began.set()
        go.wait(GENEROUS)
        return "ended"

    lead()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(waits()))
    thread.start()
    assert began.wait(GENEROUS)
    while (other := waits()) == NotRun("done"):
        pass
    assert other == NotRun("overlapped")
    go.set()
    thread.join(GENEROUS)
    assert results == ["ended"]


def test_threads_that_call_at_a_time_run_it_once(local: None) -> None:
    calls: list[int] = []

    @once_per_slot(every=3600, grace=3600, in_doubt="rerun")
    def tick() -> str:
        calls.append(1)
        return "ran"

    lead()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(tick())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GENEROUS)
    assert len(results) == 8
    assert [result for result in results if result == "ran"] == ["ran"] * len(calls) == ["ran"]


def test_while_redis_is_away_a_call_says_so(
    project: Settings, start_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    project.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server.url}}
    project.LEADER_ELECTIONS = {"default": {"LOCK_TTL": 60, "HEARTBEAT_INTERVAL": 5, "QUARANTINE": 0}}

    @once_per_slot(every=3600, in_doubt="rerun", grace=3600, name="job")
    def tick() -> None: ...

    lead()
    server.stop()
    assert tick() == NotRun("redis-unavailable")
    assert "LEADER_ELECTIONS['default']: the job 'job' cannot be started: " in caplog.text


def test_an_alias_that_is_not_declared_fails_at_the_call(local: None) -> None:
    @once_per_slot(every=60, election="other")
    def tick() -> None: ...

    with pytest.raises(UnknownElection):
        tick()


def generates() -> Iterator[int]:
    yield 1


async def generates_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("target", [generates, generates_async, int, 5])
def test_what_cannot_be_guarded_is_refused(target: Any) -> None:
    decorate: Any = once_per_slot(every=60)
    with pytest.raises(TypeError, match=r"once_per_slot: .* cannot be guarded"):
        decorate(target)


def test_what_is_no_schedule_is_refused() -> None:
    declare: Any = once_per_slot
    for options in ({}, {"every": 60, "jitter": 5}, {"every": "x"}):
        with pytest.raises(TypeError, match=r"once_per_slot|jitter"):
            declare(**options)
    with pytest.raises(ValueError, match="once_per_slot: every is 0"):
        once_per_slot(every=0)


def test_a_test_decides_the_time_and_whether_a_claim_succeeds(local: None) -> None:
    calls: list[str] = []

    @once_per_slot(every=3600)
    def tick() -> str:
        calls.append("ran")
        return "ran"

    with following():
        assert tick() == NotRun("not-leading")
    with leading():
        with slots(at=NOON):
            assert tick() == "ran"
            assert tick() == NotRun("done")
        with slots(at=NOON + timedelta(hours=1)):
            assert tick() == "ran"
        with slots(verdict="in-doubt"):
            assert tick() == NotRun("in-doubt")
        with slots(verdict="run"):
            assert (tick(), tick()) == ("ran", "ran")
    with leading(), slots(at=NOON):
        assert tick() == "ran", "another test"
    with pytest.raises(TypeError, match="give an aware datetime"):
        slots(at=datetime(2026, 5, 1))  # noqa: DTZ001


def test_a_test_runs_a_job_as_the_leader_does(local: None) -> None:
    @periodic(every=60, name="job")
    def job(run: Run) -> tuple[str, datetime, int, int]:
        run.raise_if_lost()
        return run.name, run.scheduled_for, run.attempt, run.token

    assert run_job(job, at=NOON, token=7) == ("job", NOON, 1, 7)
    name, slot, attempt, token = run_job("job", attempt=2)
    assert (name, slot.second, attempt, token) == ("job", 0, 2, 1)
    with pytest.raises(LookupError, match=r"LEADER_ELECTIONS\['default'\] has no job 'other' \(it has: 'job'\)"):
        run_job("other")

    @periodic(every=60, name="async")
    async def coroutine() -> str:
        return "ran"

    assert asyncio.run(run_job(coroutine)) == "ran"
    assert [job.spec.job.name for job in jobs.all()] == ["async", "job"]
