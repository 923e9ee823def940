"""A heartbeat beside the least that renews a key: a bare ``EVALSHA`` that compares and prolongs, in turns, in one run.

Both on one connection each of the package's own kind, so that what is compared is what the server does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import redis

from django_leader.channel import Channel, connector
from django_leader.config import Config
from django_leader.lease import Lease
from django_leader.records import Claim, LeaderInfo, utc_now

BARE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""


def main(url: str, rounds: int) -> None:
    """Prints microseconds, and the ratio of the medians."""
    client = redis.Redis.from_url(url)
    connect = connector(client.connection_pool)
    lease = Lease(connect, Config("benchmark:beat", "benchmark:beat:info", quarantine=0).validate())
    me, info = "benchmark:0123456789abcdef", LeaderInfo("benchmark", "host", utc_now(), pid=1)
    token = lease.campaign(me, Claim(), info).token
    channel = Channel(connect, 5)
    sha = channel.call("SCRIPT", "LOAD", BARE).decode()
    client.set("benchmark:bare", me, px=10_000)
    requests: dict[str, Callable[[], object]] = {
        "bare EVALSHA: GET, compare, PEXPIRE": lambda: channel.call("EVALSHA", sha, 1, "benchmark:bare", me, 10_000),
        "heartbeat": lambda: lease.renew(me, token, info),
    }
    times: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(rounds * 50):
        for name, request in requests.items():
            began = time.perf_counter()
            request()
            times[name].append((time.perf_counter() - began) * 1e6)
    lease.release(me, token, "resigned", leave=True)
    lease.channel.drop()
    channel.drop()
    client.close()
    print(f"\nA heartbeat, {rounds * 50} times                            median      p25      p75  (µs)")
    for name, taken in times.items():
        cuts = statistics.quantiles(taken, n=4)
        print(f"  {name:<44} {cuts[1]:8.0f} {cuts[0]:8.0f} {cuts[2]:8.0f}")
    bare, beat = (statistics.median(taken) for taken in times.values())
    print(f"  ratio of the medians {beat / bare:31.2f}")
