"""Two beats that are killed, stopped and frozen at random instants, and what the broker got: each tick once.

``python -m tests.process.beats --handovers 300`` prints a table. It needs a Redis or Valkey, which it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import redis

from django_leader import Config, LeaderElection, LeaderInfo
from django_leader.celery.messages import task_id
from django_leader.protocol.slots import slot_keys
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually, program

CONFIG = Config(redis_key_name="beats:lock", redis_info_key_name="beats:info").derive("beat")
PERIOD = 1000
"""Milliseconds between two ticks."""
FAULTS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSTOP": signal.SIGSTOP}
SKIPS = ("missed", "in-doubt", "unknown")


class Beat:
    """One ``celery beat``, with a schedule file of its own."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.log = fleet.folder / f"beat-{number}.log"
        command = ["celery", "-A", "tests.process.beat_project.app", "beat", "--loglevel", "INFO"]
        options = ["-S", f"django_leader.celery:{fleet.scheduler}", "--schedule", f"{fleet.file}-{number}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *options],
                cwd=ROOT,
                env=fleet.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid, self.number = self.process.pid, number

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
    """Some beats at one server, which is their broker, too."""

    def __init__(
        self, folder: Path, server: RedisServer, scheduler: str = "PersistentScheduler", **wanted: Any
    ) -> None:
        self.folder, self.server, self.scheduler = folder, server, scheduler
        if scheduler == "DatabaseScheduler":
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
        self.broker = redis.Redis(port=server.port, db=1, decode_responses=True, socket_timeout=5)
        self.election = LeaderElection(redis.Redis(port=server.port, socket_timeout=5), CONFIG)
        if scheduler == "DatabaseScheduler":
            self.manage("migrate", "-v0")

    def manage(self, *words: str) -> str:
        """What a management command prints."""
        command = [sys.executable, "-m", "django", *words]
        ended = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        return ended.stdout + ended.stderr

    def start(self) -> Beat:
        """Start another beat."""
        self.beats.append(Beat(self, len(self.beats)))
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

        beat = eventually(found, f"one leads: {[beat.said()[-2000:] for beat in self.beats[-2:]]}")
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

    def runs(self) -> list[dict[str, str]]:
        """What became of each slot."""
        entries: Any = self.redis.xrange(slot_keys(CONFIG.keys)[1])
        return [values for _, values in entries]

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


class Verdict(NamedTuple):
    """What the broker got of one entry."""

    sent: int
    """Slots of which it has a message."""
    again: int
    """Messages of which it had another one with the same id."""
    missed: int
    """Stretches of slots that are recorded as not sent."""
    lost: list[str]
    """Slots of which it has no message, and no record says why."""
    doubled: list[str]
    """Messages for a slot that was sent under another id, or that nobody has claimed."""


def judge(fleet: Fleet, name: str = "tick", period: int = PERIOD) -> Verdict:
    """Compare the messages with what is recorded of the slots of an entry whose beats have ended."""
    runs = [run for run in fleet.runs() if run["name"] == name]
    slots = {int(run["slot"]) for run in runs if run["outcome"] == "ok"}
    record = fleet.record(name)
    claimed = slots | {int(record["slot"])}
    counted = Counter(fleet.messages())
    ids = {task_id(CONFIG.redis_key_name, name, slot): slot for slot in claimed}
    lost = [f"{slot} is marked as sent" for slot in slots if not counted[task_id(CONFIG.redis_key_name, name, slot)]]
    doubled = [f"{one} is of no slot" for one in counted if one not in ids]
    skips = [(int(run.get("since", int(run["slot"]) - 1)), int(run["slot"])) for run in runs if run["outcome"] in SKIPS]
    sent = sorted(ids[one] for one in counted if one in ids)
    for one, following in itertools.pairwise(sent):
        if following - one < period:
            doubled.append(f"{following} comes {following - one} ms after {one}")
        if following - one > period and not any(since <= one and following - 1 <= to for since, to in skips):
            lost.append(f"something between {one} and {following}")
    return Verdict(len(sent), counted.total() - len(counted), len(skips), lost, doubled)


class HandOver(NamedTuple):
    """One change of leader."""

    fault: str
    took: float
    """Seconds from the fault to the next term."""


def hand_over(fleet: Fleet, fault: str, chance: random.Random) -> HandOver:
    """Harm the leader at a random instant, in half of the cases while it sends, and wait for the next one."""
    leader, token = fleet.leads(), fleet.token()
    if chance.random() < 0.5 and (last := fleet.record().get("last")):
        due = int(last) / 1000 + 1.0
        time.sleep(max(0.0, due + chance.uniform(-0.002, 0.012) - time.time()))
    else:
        time.sleep(chance.uniform(0.0, 1.5))
    began = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        leader.process.send_signal(FAULTS[fault])
    fleet.leads(but=token)
    took = time.monotonic() - began
    if fault == "SIGSTOP":
        time.sleep(chance.uniform(0.0, 0.5))
        leader.process.send_signal(signal.SIGCONT)
    else:
        leader.process.wait(GENEROUS)
        fleet.waits(fleet.start())
    return HandOver(fault, took)


@contextlib.contextmanager
def fleet_of_two(server: RedisServer, scheduler: str, **wanted: Any) -> Iterator[Fleet]:
    """Two beats, one of which leads."""
    with tempfile.TemporaryDirectory(prefix="django-leader-beats-") as folder:
        fleet = Fleet(Path(folder), server, scheduler, **wanted)
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


def table(done: list[HandOver], verdict: Verdict) -> str:
    """The result as it is printed."""
    lines = [f"{'fault':10}{'hand-overs':>12}{'median, s':>12}{'longest, s':>12}"]
    for fault in FAULTS:
        if took := [one.took for one in done if one.fault == fault]:
            lines.append(f"{fault:10}{len(took):12}{statistics.median(took):12.3f}{max(took):12.3f}")
    lines += ["", f"{'sent':>8}{'again, same id':>16}{'recorded skips':>16}{'lost':>8}{'doubled':>10}"]
    counts = verdict.sent, verdict.again, verdict.missed, len(verdict.lost), len(verdict.doubled)
    lines.append("{:8}{:16}{:16}{:8}{:10}".format(*counts))
    return "\n".join([*lines, *verdict.lost, *verdict.doubled])


def main() -> int:
    """Run what the command line says. Return 1 if a tick was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.process.beats", description=__doc__)
    parser.add_argument("--handovers", type=int, default=300, help="changes of leader (default: 300)")
    parser.add_argument(
        "--scheduler", choices=["PersistentScheduler", "DatabaseScheduler"], default="PersistentScheduler"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the faults and their instants")
    parser.add_argument("--ttl", type=float, default=1.0, help="seconds of the lease (default: 1)")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    path = program("redis-server") or program("valkey")
    if path is None:
        parser.error("there is no redis-server on the path")
    chance, done = random.Random(seed), []
    server = RedisServer(path).start()
    try:
        with fleet_of_two(server, options.scheduler, ttl=options.ttl) as fleet:
            for number in range(options.handovers):
                done.append(hand_over(fleet, chance.choice(list(FAULTS)), chance))
                if (number + 1) % 25 == 0:
                    print(f"{number + 1} hand-overs", file=sys.stderr)
            stop(fleet)
            verdict = judge(fleet)
    finally:
        server.close()
    print(f"{options.scheduler}, a tick each second, {len(done)} hand-overs, seed {seed}\n\n{table(done, verdict)}")
    return 1 if verdict.lost or verdict.doubled else 0


if __name__ == "__main__":
    raise SystemExit(main())
