"""Who is measured: this package, and others that make one process of many the leader, behind the same few methods."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks import servers

ROOT = Path(__file__).resolve().parent.parent.parent

TTL, HEARTBEAT, RETRY = 10.0, 3.0, 2.0
"""Seconds, for everybody."""
KEY = "benchmark:lock"


class Peer(Protocol):
    """One candidate of a system. Made with the server's address, a gain callback and options of the system's own."""

    def start(self) -> None:
        """Become a candidate. Return at once, or after what it takes to connect."""

    def stop(self) -> None:
        """Give the leadership back, and end the candidacy. Only a leader is asked to."""

    def leads(self) -> bool:
        """Return the check that a user of the system has."""


@dataclass(frozen=True)
class System:
    """What there is to know of a system before it runs."""

    label: str
    module: str
    name: str
    """Of the class in ``module``."""
    server: str = "redis"
    package: str = ""
    """As the package index names it, for the version."""
    slow: bool = False
    """A hand-over takes about a second: fewer rounds."""
    restless: bool = False
    """Its followers ask many times a second: they are frozen while others are measured."""
    waits: bool = False
    """Its server knows who waits."""
    check: str = "network"
    """What the check depends on."""
    options: tuple[tuple[str, Any], ...] = ()

    @functools.cached_property
    def missing(self) -> str:
        """Why it cannot be measured here; empty when it can."""
        if servers.KINDS[self.server].program() is None:
            return f"no {self.server} on this machine"
        done = subprocess.run(
            [sys.executable, "-c", f"import {self.module}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stderr.strip().splitlines()[-1] if done.returncode else ""

    @property
    def version(self) -> str:
        """Of the package; empty when it has none."""
        try:
            return importlib.metadata.version(self.package) if self.package else ""
        except importlib.metadata.PackageNotFoundError:
            return "?"

    def load(self) -> Callable[..., Peer]:
        """Return the class."""
        made: Callable[..., Peer] = getattr(importlib.import_module(self.module), self.name)
        return made


OURS = "django-leader"
PORT = "direct port"

SYSTEMS = {
    OURS: System(
        "django-leader", "benchmarks.peers.ours", "Ours", package="django-leader", waits=True, check="deadline"
    ),
    "python-redis-lock": System(
        "python-redis-lock",
        "benchmarks.peers.python_redis_lock",
        "PythonRedisLock",
        package="python-redis-lock",
        waits=True,
    ),
    "etcd": System("etcd, HTTP gateway", "benchmarks.peers.etcd", "Etcd", server="etcd", waits=True, check="deadline"),
    "kazoo": System(
        "kazoo, ZooKeeper",
        "benchmarks.peers.zookeeper",
        "Kazoo",
        server="zookeeper",
        package="kazoo",
        waits=True,
        check="flag",
    ),
    "redis-py": System(
        "redis-py Lock, polls every 0.1 s", "benchmarks.peers.redis_py", "RedisPyLock", package="redis", restless=True
    ),
    "pottery": System("pottery Redlock", "benchmarks.peers.redlocks", "Pottery", package="pottery", restless=True),
    "redlock-ng": System(
        "redlock-ng", "benchmarks.peers.redlocks", "RedlockNg", package="redlock-ng", restless=True, check="flag"
    ),
    PORT: System("direct port of the Go design", "benchmarks.peers.direct_port", "DirectPort", slow=True, check="flag"),
    "tooz": System("tooz, Redis", "benchmarks.peers.tooz_redis", "Tooz", package="tooz", slow=True),
    "redis-py retry": System(
        "redis-py Lock, polls every 2 s",
        "benchmarks.peers.redis_py",
        "RedisPyLock",
        package="redis",
        slow=True,
        options=(("sleep", RETRY),),
    ),
}


def present() -> dict[str, System]:
    """Return the systems that can be measured here."""
    return {name: system for name, system in SYSTEMS.items() if not system.missing}
