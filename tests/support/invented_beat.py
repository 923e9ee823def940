"""Celery beat without a broker, a Redis or a clock: what ``django_leader.celery`` needs of them, invented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from django_leader.celery import LeaderScheduler
from django_leader.celery import scheduler as module
from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.job_records import JobRecord
from django_leader.protocol.jobs import Decided, Job
from django_leader.protocol.slots import Claim, Decision, Verdict
from django_leader.runtime.beat import Sendable, Unscheduled

BEGIN = datetime(2026, 1, 2, 3, tzinfo=timezone.utc)


class World:
    """The clocks, what Redis has recorded, the broker, and who leads."""

    def __init__(self) -> None:
        self.seconds, self.server_ahead = 0.0, 0.0
        self.records: dict[str, JobRecord] = {}
        self.token = 0
        """Of the term that goes on; 0 if nobody leads."""
        self.redis_away = self.broker_away = False
        self.sent: list[tuple[str, str]] = []
        """Name and id of each task in the queue."""
        self.claims: list[tuple[str, int, int]] = []
        """Name, slot and the one before of each claim."""
        self.marked: list[tuple[str, int]] = []
        self.refused: Verdict | None = None
        """What every claim is answered."""
        self.before_publish: Callable[[], object] = lambda: None
        self.after_publish: Callable[[], object] = lambda: None

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.seconds)

    def slot(self, seconds: float = 0.0) -> int:
        """Milliseconds of the instant that is so much later than the beginning."""
        return round((BEGIN.timestamp() + seconds) * 1000)

    def elect(self) -> None:
        """Have another term begin."""
        self.token += 1


class InventedSlots:
    """What ``BeatSlots`` does, for one term."""

    space = "lock"

    def __init__(self, world: World, in_doubt: str) -> None:
        self._world, self._in_doubt, self.token, self.closed = world, in_doubt, world.token, False

    def is_current(self) -> bool:
        return self._world.token == self.token

    def _ask(self) -> None:
        if self._world.redis_away:
            raise RedisUnavailable("Redis is away")

    def records(self, names: Sequence[str]) -> dict[str, JobRecord | None]:
        self._ask()
        return {name: self._world.records.get(name) for name in names}

    def claim(self, name: str, slot: int, before: int) -> Decided | None:
        self._ask()
        world = self._world
        if not self.is_current():
            return None
        world.claims.append((name, slot, before))
        known = world.records.get(name, JobRecord())
        verdict: Verdict = "run"
        if slot > world.slot(world.seconds + world.server_ahead) + 1000:
            verdict = "early"
        elif known.outcome == "-" and known.token != self.token:
            verdict, again = ("rerun", "-") if self._in_doubt == "rerun" else ("done", "in-doubt")
            world.records[name] = known._replace(token=self.token, outcome=again)
        elif slot <= known.last:
            verdict = "done"
        if world.refused and verdict == "run":
            verdict = world.refused
            world.records[name] = known._replace(last=slot)
        if verdict == "run":
            world.records[name] = JobRecord(last=slot, slot=slot, token=self.token, outcome="-")
        known = world.records.get(name, known)
        which = known.slot if verdict == "rerun" else slot
        decision = Decision(verdict, which, 1, known.last, known.slot, known.outcome)
        return Decided(Job(name, Unscheduled()), Claim(name, slot, before, "id", 0.0), decision)

    def sent(self, name: str, slot: Sendable, took: float, outcome: str = "ok") -> None:
        self._world.marked.append((name, slot.slot))
        if not self._world.redis_away:
            self._world.records[name] = self._world.records[name]._replace(outcome=outcome)

    def server_now(self) -> int | None:
        return self._world.slot(self._world.seconds + self._world.server_ahead)

    def close(self) -> None:
        self.closed = True


class InventedLeadership:
    """What ``Leadership`` does: the world says who leads."""

    label = "LEADER_ELECTIONS['beat']"

    def __init__(self, world: World, leads: Callable[[], bool]) -> None:
        self._world, self._leads = world, leads
        self.waited: list[float] = []
        self.stopped = self.resigned = 0

    def start(self) -> None:
        pass

    def term(self) -> Any:
        return type("Term", (), {"token": self._world.token}) if self._world.token and self._leads() else None

    access = term

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)

    def resign(self) -> None:
        self.resigned += 1

    def stop(self) -> None:
        self.stopped += 1


class Sends(Scheduler):  # type: ignore[misc]
    """Celery's scheduler, whose broker is the world's."""

    world: World
    saved = 0

    @property
    def producer(self) -> Any:
        return "a producer"

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        if self.world.broker_away:
            raise OSError("the broker is away")
        if name == "bad":
            raise TypeError("it cannot be serialized")
        self.world.before_publish()
        self.world.sent.append((name, options["task_id"]))
        self.world.after_publish()

    def sync(self) -> None:
        self.saved += 1


class InventedClock:
    """In the place of the boot clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.seconds


class Beats:
    """Makes beats in one world. ``schedule`` is the setting of the application."""

    def __init__(self, monkeypatch: Any, **schedule: Any) -> None:
        self.world = World()
        self.app = Celery("invented", set_as_current=False)
        self.app.now = self.world.now
        self.app.conf.result_expires = None
        self.app.conf.beat_schedule = {
            name: one if isinstance(one, dict) else {"task": name, "schedule": one} for name, one in schedule.items()
        }
        self._leader: Any = None
        monkeypatch.setattr(module, "clock", InventedClock(self.world))
        monkeypatch.setattr(module, "BeatSlots", lambda access, in_doubt: InventedSlots(self.world, in_doubt))

    def make(self, monkeypatch: Any, base: type = Sends, **attributes: Any) -> Any:
        """Make a beat, which does not lead yet."""
        beats: list[Any] = []
        monkeypatch.setattr(
            module, "Leadership", lambda *args: InventedLeadership(self.world, lambda: beats == [self._leader])
        )
        kind = type("Beat", (LeaderScheduler, base), {"world": self.world, **attributes})
        beats.append(kind(self.app))
        return beats[0]

    def elect(self, beat: Any) -> None:
        """Have ``beat`` lead in another term."""
        self._leader = beat
        self.world.elect()

    def tick(self, beat: Any, seconds: float = 0.0) -> None:
        """Let time pass, and have ``beat`` look until nothing is left to do at that instant."""
        self.world.seconds += seconds
        for _ in range(20):
            pause = beat.tick()
            if pause > 0 or beat._ledger is None:
                return
        raise AssertionError("it does not come to rest")
