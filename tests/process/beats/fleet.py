"""Some ``celery beat`` at one Redis and one broker, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis

from django_leader import Config, LeaderElection, LeaderInfo
from django_leader.protocol.slots import slot_keys
from tests.chaos.servers import Clock
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually

CONFIG = Config(redis_key_name="beats:lock", redis_info_key_name="beats:info").derive("beat")
OWN = {"PersistentScheduler", "DatabaseScheduler"}


class Run(NamedTuple):
    """One entry of the stream of runs."""

    at: int
    """When it was written: milliseconds on the server's clock, which is this host's."""
    name: str
    slot: int
    outcome: str
    token: int
    since: int
    """The slots after this one are meant, up to ``slot``."""


class Beat:
    """One ``celery beat``, with a schedule file of its own. Its clock is ``ahead`` by so many seconds."""

    def __init__(self, fleet: Fleet, number: int, ahead: int = 0) -> None:
        self.log = fleet.folder / f"beat-{number}.log"
        command = ["celery", "-A", "tests.process.beat_project.app", "beat", "--loglevel", "INFO"]
        scheduler = f"django_leader.celery:{fleet.scheduler}" if fleet.scheduler in OWN else fleet.scheduler
        options = ["-S", scheduler, "--schedule", f"{fleet.file}-{number}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                cwd=ROOT,
                env={**fleet.environment, **fleet.shifted(ahead)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid, self.number, self.ahead = self.process.pid, number, ahead

    def said(self) -> str:
        """What it has printed and logged."""
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """Kill it, whatever it does."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
        self.process.wait()


class Fleet:
    """Some beats at one server. It is their broker, too, unless they have another one."""

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        scheduler: str = "PersistentScheduler",
        broker: RedisServer | None = None,
        **wanted: Any,
    ) -> None:
        self.folder, self.server, self.scheduler = folder, server, scheduler
        self.broker_server = broker or server
        wanted["broker"] = self.broker_server.port
        database = scheduler.endswith("DatabaseScheduler")
        if database:
            wanted |= {"database": str(folder / "beats.sqlite3"), "apps": ["django_celery_beat"]}
        self.file = folder / "file"
        """The file of a beat's history ends in its number."""
        settings = "tests.process.beat_project.settings"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_LEADER", "PYTEST"))},
            "DJANGO_SETTINGS_MODULE": settings,
            "BEATS": json.dumps({"port": server.port, **wanted}),
        }
        self.beats: list[Beat] = []
        self.redis = redis.Redis(port=server.port, decode_responses=True, socket_timeout=5)
        self.broker = redis.Redis(port=self.broker_server.port, db=1, decode_responses=True, socket_timeout=5)
        self.election = LeaderElection(redis.Redis(port=server.port, socket_timeout=5), CONFIG)
        self._clocks: dict[int, Mapping[str, str]] = {0: {}}
        if database:
            self.manage("migrate", "-v0")

    def shifted(self, ahead: int) -> Mapping[str, str]:
        """Return the environment of a process whose wall clock is ``ahead`` by so many seconds."""
        if ahead not in self._clocks:
            folder = self.folder / f"clock{ahead:+}"
            folder.mkdir()
            clock = Clock(folder)
            clock.set(ahead)
            assert not clock.missing, clock.missing
            self._clocks[ahead] = clock.environment
        return self._clocks[ahead]

    def manage(self, *words: str) -> str:
        """What a management command prints."""
        command = [sys.executable, "-m", "django", *words]
        ended = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        return ended.stdout + ended.stderr

    def start(self, ahead: int = 0) -> Beat:
        """Start another beat, whose wall clock is ``ahead`` by so many seconds."""
        self.beats.append(Beat(self, len(self.beats), ahead))
        return self.beats[-1]

    def leader(self) -> LeaderInfo | None:
        """Who leads now, None if nobody does."""
        return self.election.get_leader_info()

    def leads(self, but: int = 0) -> Beat:
        """Wait until a beat leads in another term than that with the token ``but``, and return it."""

        def found() -> Beat | None:
            leader = self.leader()
            if leader is None or leader.fencing_token == but:
                return None
            return next((beat for beat in self.beats if beat.pid == leader.pid), None)

        beat = eventually(found, f"one leads: {[beat.said()[-2000:] for beat in self.beats[-2:]]}", every=0.01)
        assert isinstance(beat, Beat)
        return beat

    def token(self) -> int:
        """Of the term that goes on; 0 if there is none."""
        leader = self.leader()
        return leader.fencing_token if leader else 0

    def waits(self, beat: Beat) -> None:
        """Wait until a beat takes part."""
        eventually(lambda: " leads" in beat.said() or "leader, with token" in beat.said(), f"it takes part: {beat.log}")

    def messages(self) -> list[str]:
        """The ids of the tasks in the queue, in their order."""
        return [json.loads(text)["headers"]["id"] for text in self.broker.lrange("celery", 0, -1)][::-1]

    def tasks(self) -> list[str]:
        """The names of the tasks in the queue."""
        return [json.loads(text)["headers"]["task"] for text in self.broker.lrange("celery", 0, -1)]

    def runs(self, since: int = 0) -> list[Run]:
        """What became of each slot, of what was written at or after ``since`` (milliseconds)."""
        entries: Any = self.redis.xrange(slot_keys(CONFIG.keys)[1], min=since)
        return [
            Run(
                int(number.partition("-")[0]),
                run["name"],
                int(run["slot"]),
                run["outcome"],
                int(run["token"]),
                int(run.get("since", int(run["slot"]) - 1)),
            )
            for number, run in entries
        ]

    def record(self, name: str = "tick") -> dict[str, str]:
        """What is recorded of an entry."""
        text: Any = self.redis.hget(slot_keys(CONFIG.keys)[0], f"job:{name}") or ""
        words: list[str] = text.split(" ")
        return {word.partition("=")[0]: word.partition("=")[2] for word in words}

    def close(self) -> None:
        """End all beats."""
        for beat in self.beats:
            beat.end()
        for client in (self.redis, self.broker):
            client.close()


@contextlib.contextmanager
def fleet_of_two(
    server: RedisServer, scheduler: str, broker: RedisServer | None = None, **wanted: Any
) -> Iterator[Fleet]:
    """Two beats, one of which leads."""
    with tempfile.TemporaryDirectory(prefix="django-leader-beats-") as folder:
        fleet = Fleet(Path(folder), server, scheduler, broker, **wanted)
        try:
            fleet.start()
            fleet.start()
            fleet.leads()
            for beat in fleet.beats:
                fleet.waits(beat)
            yield fleet
        finally:
            fleet.close()


def stop(fleet: Fleet) -> None:
    """End the beats gracefully, the last one after it has sent once more."""
    leader = fleet.leads()
    for beat in sorted(fleet.beats, key=lambda beat: beat is leader):
        if beat is leader:
            number = len(fleet.messages())
            eventually(lambda: len(fleet.messages()) > number, f"it sends: {beat.said()[-2000:]}")  # noqa: B023
        if beat.process.poll() is None:
            beat.process.send_signal(signal.SIGTERM)
            assert beat.process.wait(GENEROUS) == 0, beat.said()[-2000:]
