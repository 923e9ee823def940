"""A claim of a slot beside the least that reads and writes a field, and a thousand jobs that are due at one instant."""

from __future__ import annotations

import contextlib
import threading
import time
from itertools import count

import redis

from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Redis, Trouble
from benchmarks.stats import number, summarize
from django_leader.protocol.config import Config
from django_leader.protocol.jobs import Job
from django_leader.protocol.records import NO_PRECONDITIONS, utc_now
from django_leader.protocol.requests import Requests
from django_leader.protocol.schedule import Every
from django_leader.protocol.slots import MOST_CLAIMS, Claim, Decisions, End, SlotRequests
from django_leader.protocol.template import Request, command
from django_leader.redis.channel import Channel
from django_leader.redis.connector import connector
from django_leader.redis.runner import Runner
from django_leader.runtime.election import LeaderElection
from django_leader.runtime.runs import JobSpec, Run

BARE = """
local value = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return value
"""
VALUE = "x" * 250
"""As long as the record of a job."""
JOBS = 1000
PERIOD = 5
TIMEOUT = 60.0
"""Seconds for all jobs to start."""


def measure_claim(rounds: int) -> Section:
    """Microseconds, and the ratio of the medians."""
    section = Section(
        "A claim of a slot (µs)",
        "python -m benchmarks jobs",
        "One claim that is granted, in turns with the least that reads and writes a field of the same size; and a "
        f"request with {MOST_CLAIMS} claims, for each of them. The end of each run is told outside of the time.",
        ("", *SPREAD),
    )
    with contextlib.closing(Redis()) as server:
        times = _claims(redis.Redis.from_url(server.address), rounds)
    bare, claim, batch = (summarize(taken) for taken in times.values())
    section.rows = [(name, *spread(found)) for name, found in zip(times, (bare, claim, batch), strict=True)]
    section.rows.append(("ratio of the medians: one claim", number(claim.median / bare.median), "", "", "", ""))
    section.rows.append(("ratio of the medians: of many", number(batch.median / bare.median), "", "", "", ""))
    section.values = {"claim": claim.median, "claim of many": batch.median, "bare claim": bare.median}
    return section


def _claims(client: redis.Redis, rounds: int) -> dict[str, list[float]]:
    connect = connector(client.connection_pool)
    runner, channel = Runner(Channel(connect, 5)), Channel(connect, 5)
    config = Config("benchmark:jobs", "benchmark:jobs:info", instance_id="b", lock_ttl=600, quarantine=0).validate()
    me = "benchmark:0123456789abcdef"
    granted = runner.ask(Requests(config, me, pid=1).campaign(NO_PRECONDITIONS, "", utc_now()))
    slots = SlotRequests(config.keys, me, granted.token, 0.0)
    sha, numbers, memory = client.script_load(BARE), count(round(granted.at * 1000) - 10 * rounds), ""
    client.hset("benchmark:bare", "job:0", VALUE)

    def bare() -> None:
        words = "EVALSHA", sha, 1, "benchmark:bare", "job:0", VALUE
        channel.call(Request(command(words, lambda reply: reply)).packed())

    def claim(number_of_claims: int) -> float:
        nonlocal memory
        slot = next(numbers)
        claims = [Claim(f"job {name}", slot, slot - 1, f"id{slot}", 3600) for name in range(number_of_claims)]
        began = time.perf_counter()
        answer: Decisions = runner.ask(slots.claim(claims, granted.at + 600, memory))
        took = time.perf_counter() - began
        if answer.verdict == "forgotten":
            memory = answer.memory
            return claim(number_of_claims)
        if {decision.verdict for decision in answer.each} != {"run"}:
            raise Trouble(f"a claim was not granted: {answer.each[0]}")
        runner.ask(slots.finish([End(granted.token, one.name, slot, one.claim_id, "ok", 0.1) for one in claims]))
        return took / number_of_claims

    client.hset(config.keys.state, "began", 0)
    claim(MOST_CLAIMS)  # the first of each job has no record
    times: dict[str, list[float]] = {
        "bare EVALSHA: HGET, HSET": [],
        "one claim": [],
        f"one of {MOST_CLAIMS} claims": [],
    }
    for _ in range(rounds):
        began = time.perf_counter()
        bare()
        taken = time.perf_counter() - began, claim(1), claim(MOST_CLAIMS)
        for found, seconds in zip(times.values(), taken, strict=True):
            found.append(seconds * 1e6)
    runner.channel.drop()
    channel.drop()
    client.close()
    return times


def measure_thousand(rounds: int) -> Section:
    """Milliseconds from a slot to the starts of the jobs that are due then."""
    section = Section(
        f"{JOBS:,} jobs that are due at one instant (ms)",
        "python -m benchmarks jobs",
        "From the slot to the start of each job, on the clock of the host, on which the server runs, too. The jobs "
        "only count. The first slot of the term is left out.",
        ("", *SPREAD),
    )
    with contextlib.closing(Redis()) as server:
        starts = _thousand(server, rounds)
    every = summarize([late for slot in starts for late in slot])
    last = summarize([max(slot) for slot in starts])
    section.rows = [("a start", *spread(every)), ("the last start of a slot", *spread(last))]
    section.values = {"last of a thousand": last.median}
    return section


def _thousand(server: Redis, rounds: int) -> list[list[float]]:
    starts: dict[float, list[float]] = {}
    lock = threading.Lock()

    def note(run: Run) -> None:
        late = (time.time() - run.scheduled_for.timestamp()) * 1000
        with lock:
            starts.setdefault(run.scheduled_for.timestamp(), []).append(late)

    specs = [JobSpec(Job(f"job {number}", Every(PERIOD)), note) for number in range(JOBS)]
    config = Config("benchmark:jobs", "benchmark:jobs:info", quarantine=0)
    election = LeaderElection(redis.Redis.from_url(server.address), config, name="benchmark", jobs=lambda: specs)
    election.start()
    try:
        until = time.monotonic() + TIMEOUT + rounds * PERIOD
        while len(whole := [found for _, found in sorted(starts.items()) if len(found) == JOBS]) <= rounds:
            if time.monotonic() > until:
                raise Trouble(f"only {len(whole)} slots had {JOBS} starts")
            time.sleep(0.1)
    finally:
        election.stop()
    return whole[1:]
