"""Several ``celery beat`` as processes: each tick is sent once while they are killed, stopped and frozen."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django
import pytest
import redis

from tests.chaos.servers import Clock
from tests.conftest import need
from tests.support.servers import GENEROUS, RedisServer, eventually

need(find_spec("celery"), "celery")

from django_leader.celery.messages import task_id  # noqa: E402
from tests.process.beats.__main__ import DURABLE  # noqa: E402
from tests.process.beats.faults import BROKER, CLOCKS, SIGNALS, Fault, inject  # noqa: E402
from tests.process.beats.fleet import CONFIG, Fleet, Run, fleet_of_two, stop  # noqa: E402
from tests.process.beats.peers import PEERS, Measured, together  # noqa: E402
from tests.process.beats.peers import table as peers_table  # noqa: E402
from tests.process.beats.verdict import Verdict, judge, table  # noqa: E402

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


def holds(fleet: Fleet, kinds: list[str]) -> Verdict:
    """Inject these faults, and find each tick sent once or recorded as not sent."""
    chance, done = random.Random(), list[Fault]()
    for kind in kinds:
        done += inject(fleet, kind, chance)
    stop(fleet)
    verdict = judge(fleet, done)
    assert verdict.total.sent > 1
    assert (verdict.total.lost, verdict.total.doubled) == ([], []), (done, fleet.runs())
    assert verdict.total.faults == len(done)
    return verdict


@pytest.mark.timeout(600)
def test_each_tick_is_sent_once_through_hand_overs(own_server: RedisServer, scheduler: str) -> None:
    with fleet_of_two(own_server, scheduler) as fleet:
        verdict = holds(fleet, [*SIGNALS, *SIGNALS])
        assert verdict.total.handed_over == 2 * len(SIGNALS)


@pytest.mark.timeout(600)
def test_each_tick_is_sent_once_while_the_broker_is_away(own_server: RedisServer) -> None:
    broker = RedisServer(own_server.path, *DURABLE).start()
    try:
        with fleet_of_two(own_server, "PersistentScheduler", broker) as fleet:
            holds(fleet, [*BROKER, *BROKER])
    finally:
        broker.close()


@pytest.mark.timeout(600)
def test_each_tick_is_sent_once_by_hosts_whose_clocks_differ(tmp_path: Path, own_server: RedisServer) -> None:
    need(not Clock(tmp_path).missing, "a C compiler")
    with fleet_of_two(own_server, "PersistentScheduler") as fleet:
        verdict = holds(fleet, list(CLOCKS))
        assert verdict.rows["from a clock 30 s behind"].skipped["missed"] > 20


def test_kills_of_several_fleets_are_shown_as_those_of_one_peer() -> None:
    measured = together([Measured(PEERS[0], [2.0, 4.0]), Measured(PEERS[0], [9.0], none=1)])
    line = peers_table([measured], limit=60).splitlines()[1]
    assert line.split()[-8:] == ["4", "2.000", "4.000", "9.000", "none", "within", "60", "s"]


class Sent:
    """What a fleet has sent and recorded."""

    def __init__(self, messages: list[int], runs: list[Run]) -> None:
        self._messages, self._runs = messages, runs

    def messages(self) -> list[str]:
        return [task_id(CONFIG.redis_key_name, "tick", slot) for slot in self._messages]

    def runs(self) -> list[Run]:
        return self._runs

    def record(self, name: str) -> dict[str, str]:
        return {"slot": str(max(run.slot for run in self._runs))}


def sent(*messages: int, marked: list[int], missed: Sequence[tuple[int, int]] = ()) -> Verdict:
    """Judge the messages of these slots, one of which was the first after a fault."""
    runs = [Run(slot + 5, "tick", slot, "ok", 1, slot - 1) for slot in marked]
    runs += [Run(slot, "tick", slot, "missed", 1, since) for since, slot in missed]
    runs.sort()
    fleet: Any = Sent(list(messages), runs)
    return judge(fleet, [Fault("SIGKILL", 2500, 2500, 2, 0, True)])


def test_a_tick_that_was_not_sent_is_found() -> None:
    assert sent(1000, 2000, 4000, marked=[1000, 2000, 4000]).total.lost == ["something between 2000 and 4000"]
    assert sent(1000, 2000, marked=[1000, 2000, 3000]).rows["SIGKILL"].lost == ["3000 is marked as sent"]


def test_a_tick_that_was_sent_under_two_ids_is_found() -> None:
    verdict = sent(1000, 2000, 2400, marked=[1000, 2000, 2400])
    assert verdict.rows["SIGKILL"].doubled == ["2400 comes 400 ms after 2000"]
    assert len(sent(1000, 1500, 2000, marked=[1000, 2000]).total.doubled) == 1


def test_a_tick_that_was_sent_again_is_counted_after_its_fault() -> None:
    row = sent(1000, 2000, 2000, 3000, marked=[1000, 2000, 3000]).rows["SIGKILL"]
    assert (row.again, row.sent, row.lost, row.doubled) == (1, 1, [], [])
    assert row.took == [0.505]


def test_ticks_that_are_recorded_as_missed_are_counted() -> None:
    verdict = sent(1000, 2000, 5300, marked=[1000, 2000, 5300], missed=[(2000, 5299)])
    assert (verdict.total.skipped, verdict.total.lost) == ({"missed": 2}, [])
    assert "recorded as not sent: 2 missed" in table([verdict])
    verdict = sent(1000, 2000, 5300, marked=[1000, 2000, 5300], missed=[(2000, 3500), (3600, 5299)])
    assert verdict.total.lost == ["something between 2000 and 5300"]


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
    fleet = Fleet(tmp_path, own_server, "PersistentScheduler", some_server)
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
