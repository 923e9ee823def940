"""How soon the next message comes after a kill -9 of the beat that sends: here and with other schedulers.

All of them send one entry each second through one Redis of their own. A peer that is not installed is left out.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import django_leader
from tests.support.servers import GENEROUS, RedisServer, eventually

from .fleet import Beat, Fleet

SENT = "Scheduler: Sending due task"
"""The line of the log that all of these schedulers write when they send."""
STANDBY = 2.0
"""Seconds after which a beat that was started is a standby."""
OWN = "django-leader"
KEYS = {"REDIS_KEY_NAME": "beats:lock", "REDIS_INFO_KEY_NAME": "beats:info"}


class Peer(NamedTuple):
    """A scheduler with settings."""

    name: str
    package: str
    scheduler: str
    what: str = "defaults"
    settings: Mapping[str, Any] = MappingProxyType({})
    renews: float = 1.0
    """Seconds between two renewals of its lock: a kill comes anywhere in between."""


def own(name: str, what: str, renews: float, **settings: Any) -> Peer:
    """Return the scheduler of this package with settings of its election."""
    elections = {"LEADER_ELECTIONS": {"default": KEYS | settings}}
    return Peer(name, OWN, "DatabaseScheduler", what, elections, renews)


REDBEAT = Peer("redbeat", "celery-redbeat", "redbeat.RedBeatScheduler")
MULTIBEAT = Peer("multibeat", "celery-multibeat-scheduler", "multibeat.django.MultiBeatDatabaseScheduler", renews=45.0)
SHORT = dict.fromkeys(["CELERY_MULTIBEAT_MIN_REFRESH_SECONDS", "CELERY_MULTIBEAT_MIN_STANDBY_SECONDS"], 1)
PEERS = [
    own("own", "defaults, standby on the same host", 2.5),
    own("own-elsewhere", "defaults, as on another host", 2.5, SAME_HOST_TAKEOVER=False),
    own("own-1", "LOCK_TTL 1, as on another host", 1.0, SAME_HOST_TAKEOVER=False, LOCK_TTL=1),
    REDBEAT,
    REDBEAT._replace(name="redbeat-1", what="max_loop_interval 1", settings={"CELERY_BEAT_MAX_LOOP_INTERVAL": 1}),
    MULTIBEAT,
    MULTIBEAT._replace(
        name="multibeat-16", what="lock_timeout 16", settings={"CELERY_MULTIBEAT_LOCK_TIMEOUT": 16}, renews=15.0
    ),
    MULTIBEAT._replace(
        name="multibeat-2",
        what="lock_timeout 2, min_…_seconds 1",
        settings=SHORT | {"CELERY_MULTIBEAT_LOCK_TIMEOUT": 2},
        renews=1.5,
    ),
]


class Measured(NamedTuple):
    """What became of the kills of one peer."""

    peer: Peer
    took: list[float]
    """Seconds from the kill to the next message."""
    none: int = 0
    """Kills after which no message came within the limit."""


def sender(fleet: Fleet) -> Beat:
    """Wait until a beat sends, and return it."""
    before = {beat.number: beat.said().count(SENT) for beat in fleet.beats}

    def found() -> Beat | None:
        living = (beat for beat in fleet.beats if beat.process.poll() is None)
        return next((beat for beat in living if beat.said().count(SENT) > before.get(beat.number, 0)), None)

    sending: Beat = eventually(found, f"one sends: {fleet.beats[-1].said()[-2000:]}", every=0.1)
    return sending


def standby(fleet: Fleet) -> None:
    """Start another beat, which finds that one sends already."""
    beat = fleet.start()
    eventually(lambda: "beat: Starting..." in beat.said(), f"it starts: {beat.said()[-2000:]}", every=0.1)
    time.sleep(STANDBY)


def measure(peer: Peer, server: RedisServer, kills: int, limit: float) -> Measured:
    """Kill the beat that sends ``kills`` times, each time at another instant."""
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="django-leader-beats-") as folder:
        fleet = Fleet(Path(folder), server, peer.scheduler, settings=dict(peer.settings))
        try:
            standby(fleet)
            sender(fleet)
            standby(fleet)
            while len(took) < kills:
                beat = sender(fleet)
                time.sleep(random.uniform(0.0, max(1.0, peer.renews)))
                began = time.monotonic()
                beat.process.kill()
                beat.process.wait(GENEROUS)
                number = fleet.broker.llen("celery")
                try:
                    eventually(lambda: fleet.broker.llen("celery") > number, timeout=limit, every=0.02)  # noqa: B023
                except AssertionError:
                    return Measured(peer, took, 1)
                took.append(time.monotonic() - began)
                standby(fleet)
        finally:
            fleet.close()
    return Measured(peer, took)


def installed(package: str) -> str:
    """Return the version of a package, empty if it is not installed."""
    try:
        return django_leader.__version__ if package == OWN else version(package)
    except PackageNotFoundError:
        return ""


def table(results: list[Measured], limit: float) -> str:
    """The result as it is printed."""
    lines = [f"{'scheduler':34}{'settings':38}{'kills':>6}{'shortest, s':>13}{'median, s':>11}{'longest, s':>12}"]
    for peer, took, none in results:
        name = f"{peer.package} {installed(peer.package)}"
        line = f"{name:34}{peer.what:38}{len(took) + none:6}"
        if took:
            line += f"{min(took):13.3f}{statistics.median(took):11.3f}{max(took):12.3f}"
        lines.append(line + (f"  none within {limit:.0f} s" if none else ""))
    return "\n".join(lines)


def compare(path: str, only: list[str], kills: int, limit: float, fleets: int = 1) -> str:
    """Kill the beats of all peers at the same time, ``kills`` times in each of some fleets. Return a table."""
    wanted = [peer for peer in PEERS if not only or peer.name in only]
    peers = [peer for peer in wanted if peer.package == OWN or installed(peer.package)]
    servers = [RedisServer(path).start() for _ in peers for _ in range(fleets)]
    try:
        with ThreadPoolExecutor(len(servers)) as pool:
            begun = [
                [pool.submit(measure, peer, server, kills, limit) for server in servers[number :: len(peers)]]
                for number, peer in enumerate(peers)
            ]
            each = [[one.result() for one in some] for some in begun]
    finally:
        for server in servers:
            server.close()
    return table([together(some) for some in each], limit)


def together(some: list[Measured]) -> Measured:
    """Return what several fleets of one peer have measured as one."""
    return Measured(some[0].peer, [took for one in some for took in one.took], sum(one.none for one in some))
