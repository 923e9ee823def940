"""What the machine allows: a wake-up by BLPOP, by a pidfd, and a function that compares a clock."""

from __future__ import annotations

import os
import time
from time import clock_gettime

import redis

from benchmarks.fleet import Process
from benchmarks.servers import Redis
from django_leader.system.clock import BOOT_CLOCK, now

DEADLINE = now() + 1e9
PID = os.getpid()


def bare() -> bool:
    """Return the least that a deadline needs."""
    return clock_gettime(BOOT_CLOCK) < DEADLINE


def guarded() -> bool:
    """Return the least that a deadline needs which is void in a forked child, on a system that wipes no page there."""
    return clock_gettime(BOOT_CLOCK) < DEADLINE and os.getpid() == PID


class WakeUp:
    """From before the ``RPUSH`` in one process until ``BLPOP`` has returned in another; redis-py as it comes."""

    def __init__(self) -> None:
        self.server = Redis()
        self.client = redis.Redis.from_url(self.server.address)
        self.waiter = Process("benchmarks.processes", "waiter", self.server.address)
        self.waiter.hear()

    def measure(self) -> float:
        """Milliseconds."""
        self.waiter.tell("wait")
        while not self.server.waiting():
            time.sleep(0.005)
        time.sleep(0.02)
        began = time.monotonic()
        self.client.rpush("benchmark:wake", "1")
        at: float = self.waiter.hear()["at"]
        return (at - began) * 1000

    def close(self) -> None:
        """End it."""
        self.waiter.close()
        self.client.close()
        self.server.close()


class Death:
    """From before ``kill()`` until another process sees it by a pidfd. The victim has imported what a candidate has."""

    def __init__(self) -> None:
        self.watcher = Process("benchmarks.processes", "watcher")
        self.watcher.hear()
        self.victim = self._victim()

    def _victim(self) -> Process:
        victim = Process("benchmarks.processes", "victim")
        victim.hear()
        return victim

    def measure(self) -> float:
        """Milliseconds."""
        self.watcher.tell(str(self.victim.pid))
        self.watcher.hear()
        time.sleep(0.02)
        began = self.victim.kill()
        at: float = self.watcher.hear()["at"]
        self.victim.close()
        self.victim = self._victim()
        return (at - began) * 1000

    def close(self) -> None:
        """End it."""
        self.watcher.close()
        self.victim.close()
