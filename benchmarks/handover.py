"""A graceful hand-over between three processes, beside a bare ``BLPOP`` wake-up between two, in turns, in one run.

Hand-over: from the leader's call of ``stop()`` until the next leader's gain callback runs. Wake-up: from before the
``RPUSH`` in one process until ``BLPOP`` has returned in another; both on redis-py as it comes.
"""

from __future__ import annotations

import json
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import redis

ROOT = Path(__file__).resolve().parent.parent
CANDIDATES = 3


class Process:
    """A child that does what it is told by lines, and answers in lines of JSON."""

    def __init__(self, role: str, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.handover", role, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.stdout = self._process.stdout

    def tell(self, line: str) -> None:
        """Sends a line."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Waits for an answer."""
        said: dict[str, Any] = json.loads(self.stdout.readline())
        return said

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def main(url: str, rounds: int) -> None:
    """Prints milliseconds, and the ratio of the medians."""
    fleet = [Process("candidate", url) for _ in range(CANDIDATES)]
    waiter = Process("waiter", url)
    client = redis.Redis.from_url(url)
    handovers, wakeups = [], []
    try:
        for process in (*fleet, waiter):
            process.hear()
        leader, *followers = fleet
        leader.tell("start")
        leader.hear()
        for follower in followers:
            follower.tell("start")
        for _ in range(rounds):
            time.sleep(0.15)  # so that every follower waits at the server again
            wakeups.append(_wake_up(client, waiter))
            leader.tell("stop")
            began = leader.hear()["at"]
            # Two followers are woken; which of them leads is not known before.
            winner = _first(followers)
            handovers.append((winner[1] - began) * 1000)
            leader.tell("start")
            followers = [*(f for f in followers if f is not winner[0]), leader]
            leader = winner[0]
    finally:
        for process in (*fleet, waiter):
            process.close()
        client.close()
    print(f"\nA hand-over, {rounds} times                             median      p25      p75      p99  (ms)")
    for name, times in (
        ("bare BLPOP wake-up, 2 processes", wakeups),
        ("stop() to gain callback, 3 candidates", handovers),
    ):
        cuts = statistics.quantiles(times, n=100)
        print(f"  {name:<44} {statistics.median(times):8.2f} {cuts[24]:8.2f} {cuts[74]:8.2f} {cuts[98]:8.2f}")
    print(f"  ratio of the medians {statistics.median(handovers) / statistics.median(wakeups):31.2f}")


def _wake_up(client: redis.Redis, waiter: Process) -> float:
    waiter.tell("wait")
    waiter.hear()
    time.sleep(0.02)
    began = time.monotonic()
    client.rpush("benchmark:wake", "1")
    took: float = (waiter.hear()["at"] - began) * 1000
    return took


def _first(followers: list[Process]) -> tuple[Process, float]:
    streams = {follower.stdout: follower for follower in followers}
    ready, _, _ = select.select(list(streams), [], [], 30)
    winner = streams[ready[0]]
    return winner, winner.hear()["at"]


def candidate(url: str) -> None:
    """A process of the fleet."""
    from django_leader import Config, LeaderElection

    election = LeaderElection(redis.Redis.from_url(url), Config("benchmark:lock", "benchmark:info", quarantine=0))
    election.on_become_leader(lambda: _say(at=time.monotonic()))
    _say(at=0)
    for line in sys.stdin:
        if line.strip() == "start":
            election.start()
        else:
            began = time.monotonic()
            election.stop()
            _say(at=began)


def waiter(url: str) -> None:
    """A process that waits for a bare wake-up."""
    client = redis.Redis.from_url(url, socket_timeout=60)
    _say(at=0)
    for _ in sys.stdin:
        _say(at=0)
        client.blpop(["benchmark:wake"])
        _say(at=time.monotonic())


def _say(**values: float) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"candidate": candidate, "waiter": waiter}[sys.argv[1]](sys.argv[2])
