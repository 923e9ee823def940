"""Several ``celery beat`` as processes: each tick is sent once while they are killed, stopped and frozen."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import django
import pytest
import redis

from tests.conftest import need
from tests.support.servers import GENEROUS, RedisServer, eventually

need(find_spec("celery"), "celery")

from tests.process.beats import FAULTS, Fleet, fleet_of_two, hand_over, judge, stop  # noqa: E402

SCHEDULERS = ["PersistentScheduler", "DatabaseScheduler"]


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest) -> str:
    """Each scheduler that can be installed."""
    name = str(request.param)
    if name == "DatabaseScheduler":
        need_database_scheduler()
    return name


def need_database_scheduler() -> None:
    if django.VERSION >= (6, 1):
        pytest.skip("django-celery-beat needs a Django before 6.1")
    need(find_spec("django_celery_beat"), "django-celery-beat")


@pytest.fixture
def fleet(tmp_path: Path, own_server: RedisServer, scheduler: str) -> Iterator[Fleet]:
    """No beat yet."""
    made = Fleet(tmp_path, own_server, scheduler)
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_each_tick_is_sent_once_through_hand_overs(own_server: RedisServer, scheduler: str) -> None:
    chance = random.Random()
    with fleet_of_two(own_server, scheduler) as fleet:
        for fault in [*FAULTS, *FAULTS]:
            hand_over(fleet, fault, chance)
        stop(fleet)
        verdict = judge(fleet)
        assert verdict.sent > 1
        assert (verdict.lost, verdict.doubled) == ([], []), fleet.runs()


@pytest.mark.timeout(300)
def test_a_follower_touches_no_store_and_leads_at_once(fleet: Fleet) -> None:
    first = fleet.start()
    assert fleet.leads() is first
    eventually(fleet.messages, "it sends")
    second = fleet.start()
    fleet.waits(second)
    [row] = json.loads(fleet.manage("leader_status", "beat", "--json"))
    assert (row["election"], row["pid"], row["status"], row["candidates"]) == ("beat", first.pid, 0, 2)
    assert not list(fleet.folder.glob(f"{fleet.file.name}-1*"))
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(GENEROUS) == 0
    assert fleet.leads() is second
    assert "resigned" in [event.kind for event in fleet.election.history()]
    number = len(fleet.messages())
    eventually(lambda: len(fleet.messages()) > number, "the next one sends")


@pytest.mark.timeout(300)
def test_without_redis_beat_sends_nothing_and_goes_on(
    tmp_path: Path, own_server: RedisServer, some_server: RedisServer
) -> None:
    fleet = Fleet(tmp_path, own_server, "PersistentScheduler", broker=some_server.port)
    beat = fleet.start()
    broker = redis.Redis(port=some_server.port, db=1)

    def number() -> int:
        return int(broker.llen("celery"))

    try:
        eventually(lambda: number() > 1, "it sends")
        own_server.stop()
        eventually(lambda: "Celery beat sends nothing" in beat.said() or "lost leadership" in beat.said())
        before = number()
        time.sleep(2.5)
        assert number() == before
        own_server.start()
        eventually(lambda: number() > before, "it sends again")
        assert beat.process.poll() is None
    finally:
        fleet.close()


ONE_OFF = """
from django_celery_beat.models import IntervalSchedule, PeriodicTask
second, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
PeriodicTask.objects.create(name="once", task="once", interval=second, one_off=True)
PeriodicTask.objects.create(name="off", task="off", interval=second, enabled=False)
"""
SHOW = """
from django_celery_beat.models import PeriodicTask
print({task.name: (task.enabled, task.total_run_count) for task in PeriodicTask.objects.all()})
"""


@pytest.mark.timeout(300)
def test_a_task_that_shall_run_once_runs_once_through_a_crash(tmp_path: Path, own_server: RedisServer) -> None:
    """The leader dies before it has saved that the task has run."""
    need_database_scheduler()
    fleet = Fleet(tmp_path, own_server, "DatabaseScheduler")
    try:
        assert fleet.manage("shell", "-c", ONE_OFF).count("Error") == 0
        first, second = fleet.start(), fleet.start()
        leader = fleet.leads()
        assert leader in (first, second)
        eventually(lambda: fleet.record("once").get("outcome") == "ok", f"it is sent: {leader.said()}")
        token = fleet.token()
        leader.process.send_signal(signal.SIGKILL)
        fleet.leads(but=token)
        number = len(fleet.messages())
        eventually(lambda: len(fleet.messages()) > number + 1, "the next one sends")
        stop(fleet)
        assert fleet.tasks().count("once") == 1
        assert fleet.tasks().count("off") == 0
        assert "'once': (False, 0)" in fleet.manage("shell", "-c", SHOW)
    finally:
        fleet.close()
