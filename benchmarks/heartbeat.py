"""A heartbeat beside the least that renews a key: a bare ``EVALSHA`` that compares and prolongs, in turns, in one run.

Both on one connection each of the package's own kind, so that what is compared is what the server does.
"""

from __future__ import annotations

import contextlib
import time

import redis

from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Redis, Trouble
from benchmarks.stats import number, summarize
from django_leader.protocol.config import Config
from django_leader.protocol.records import NO_PRECONDITIONS, utc_now
from django_leader.protocol.requests import Requests
from django_leader.protocol.template import Request, command
from django_leader.redis.channel import Channel
from django_leader.redis.connector import connector
from django_leader.redis.runner import Runner

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
    runner, channel = Runner(Channel(connect, 5)), Channel(connect, 5)
    me, since = "benchmark:0123456789abcdef", utc_now()
    config = Config("benchmark:beat", "benchmark:beat:info", instance_id="benchmark", quarantine=0).validate()
    requests = Requests(config, me, pid=1)
    token = runner.ask(requests.campaign(NO_PRECONDITIONS, "", since)).token
    sha = client.script_load(BARE)
    client.set("benchmark:bare", me, px=10_000)

    def bare() -> None:
        words = "EVALSHA", sha, 1, "benchmark:bare", me, 10_000
        channel.call(Request(command(words, int)).packed())

    def heartbeat() -> None:
        """Do what an election thread does for a heartbeat, from the request to what its reply means."""
        request = requests.renew(token, since, utc_now())
        if not request.read(runner.send(request)):
            raise Trouble("the lean renewal could not tell")

    turns = {"bare EVALSHA: GET, compare, PEXPIRE": bare, "heartbeat": heartbeat}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            times[name].append((time.perf_counter() - began) * 1e6)
    runner.channel.drop()
    channel.drop()
    client.close()
    return times
