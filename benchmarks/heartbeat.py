"""A heartbeat beside the least that renews a key: a bare ``EVALSHA`` that compares and prolongs, in turns, in one run.

Both on one connection each of the package's own kind, so that what is compared is what the server does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import redis

from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Redis
from benchmarks.stats import number, summarize
from django_leader.protocol.config import Config
from django_leader.protocol.records import LeaderInfo, Preconditions, utc_now
from django_leader.redis.channel import Channel
from django_leader.redis.connector import connector
from django_leader.redis.lease import Lease

BARE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""


def measure(rounds: int) -> Section:
    """Microseconds, and the ratio of the medians."""
    section = Section(
        "A heartbeat (µs)",
        "python -m benchmarks heartbeat",
        "One renewal of the lease, in turns with the least that renews a key.",
        ("", *SPREAD),
    )
    with contextlib.closing(Redis()) as server:
        times = _measure(redis.Redis.from_url(server.address), rounds)
    bare, beat = (summarize(taken) for taken in times.values())
    section.rows = [(name, *spread(summary)) for name, summary in zip(times, (bare, beat), strict=True)]
    section.rows.append(("ratio of the medians", number(beat.median / bare.median), "", "", "", ""))
    section.values = {"heartbeat": beat.median, "bare heartbeat": bare.median}
    return section


def _measure(client: redis.Redis, rounds: int) -> dict[str, list[float]]:
    connect = connector(client.connection_pool)
    lease = Lease(connect, Config("benchmark:beat", "benchmark:beat:info", quarantine=0).validate())
    me, info = "benchmark:0123456789abcdef", LeaderInfo("benchmark", "host", utc_now(), pid=1)
    token = lease.campaign(me, Preconditions(), info).token
    channel = Channel(connect, 5)
    sha = channel.call("SCRIPT", "LOAD", BARE).decode()
    client.set("benchmark:bare", me, px=10_000)
    requests: dict[str, Callable[[], object]] = {
        "bare EVALSHA: GET, compare, PEXPIRE": lambda: channel.call("EVALSHA", sha, 1, "benchmark:bare", me, 10_000),
        "heartbeat": lambda: lease.renew(me, token, info),
    }
    times: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(rounds):
        for name, request in requests.items():
            began = time.perf_counter()
            request()
            times[name].append((time.perf_counter() - began) * 1e6)
    lease.channel.drop()
    channel.drop()
    client.close()
    return times
