"""The embedded server is held equal to the real ones: random histories of script calls, replies and keys compared.

Both are asked the same at nearly the same time. What depends on the very millisecond is compared by about how much.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import Any, NamedTuple, get_args

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_leader.protocol import replies, scripts
from django_leader.protocol.config import Config
from django_leader.protocol.records import Preconditions
from django_leader.protocol.requests import Requests
from django_leader.protocol.slots import Claim, End, InDoubt, LastRun, SlotRequests, decisions
from django_leader.protocol.template import Request
from tests.redis.conftest import client, servers
from tests.simulation import protocol
from tests.simulation.server import Server
from tests.simulation.store import RedisError
from tests.support.servers import SERVERS

__all__ = ["client", "servers"]  # fixtures

NEAR = 2000
"""Milliseconds by which two numbers may differ that are both times."""
CONFIG = Config(lock_ttl=60, instance_id="i", hostname="h").validate()
MES = [f"{name}:{'0' * 15}{number}" for number, name in enumerate("aab")]
KINDS = {"string": "GET", "list": "LRANGE", "zset": "ZRANGE", "stream": "XLEN"}


class Both:
    """A real server and the embedded one, with the same clock."""

    def __init__(self, real: Any) -> None:
        real.flushall()
        self.real, self.model = real, Server()
        self.unknown = "" if int(real.info("server")["redis_version"].split(".")[0]) >= 7 else scripts.FLAGS
        """How no script may begin there."""
        seconds, micros = real.time()
        self.model.offset = seconds + micros / 1e6 - time.monotonic()
        replid = real.info("replication").get("master_replid", "")
        self.model.store.info = {"replication": {"master_replid": replid, "connected_slaves": "0"}}
        self.model.store.info["stats"] = {"sync_full": "0", "sync_partial_ok": "0"}

    def command(self, *args: str) -> None:
        """One command, to both."""
        code = f"return redis.call({', '.join(f'ARGV[{number}]' for number in range(1, len(args) + 1))})"
        self.eval(code, (), args)

    def eval(
        self, source: str, keys: tuple[bytes, ...], args: tuple[Any, ...], model_args: tuple[Any, ...] | None = None
    ) -> tuple[Any, Any]:
        """A script, for both. Gives both replies."""
        theirs: Any
        try:
            theirs = self.real.eval(source.removeprefix(self.unknown), len(keys), *keys, *args)
        except redis.ResponseError as error:
            theirs = error
        try:
            ours = self.model.eval(time.monotonic(), source, keys, model_args or args)
        except RedisError as error:
            ours = error
        assert alike(theirs, ours), f"{args!r}: the real server says {theirs!r}, the embedded one {ours!r}"
        return theirs, ours

    def compare(self) -> None:
        """All keys, with their types, contents and expiries."""
        keys = sorted(key.decode() for key in self.real.keys("*"))
        self.model.store.now = int(self.model.wall(time.monotonic()) * 1e6)
        assert keys == sorted(key.decode() for key in self.model.store.values if self.model.store.alive(key))
        for key in keys:
            kind = self.real.type(key).decode()
            more = ("0", "-1") if kind in ("list", "zset") else ()
            if kind == "hash":  # a real server has long values in an order of its own
                theirs = [part for pair in sorted(self.real.hgetall(key).items()) for part in pair]
                ours = [part for pair in sorted(self.model.store.values[key.encode()].items()) for part in pair]
                assert alike(theirs, ours), f"{key}: the real server has {theirs!r}, the embedded one {ours!r}"
            else:
                self.command(KINDS[kind], key, *more)
            if kind == "stream":
                theirs = [[part for pair in fields.items() for part in pair] for _, fields in self.real.xrange(key)]
                ours = [list(fields) for _, fields in self.model.store.values[key.encode()]]
                assert alike(theirs, ours), f"{key}: the real server has {theirs!r}, the embedded one {ours!r}"
            self.command("PTTL", key)


def alike(theirs: Any, ours: Any) -> bool:
    """Whether two replies are equal but for a moment's difference in the times that they tell."""
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(theirs) == len(ours) and all(map(alike, theirs, ours))
    if isinstance(theirs, Exception):
        return isinstance(ours, Exception)  # redis-py keeps the code of an error to itself
    if isinstance(theirs, bytes) and isinstance(ours, bytes):
        # A wall time may be told just before a second ends, and just after it.
        theirs, ours = (re.sub(rb"\d{4}-\d\d-\d\dT[\d:.]+", b"(a time)", text) for text in (theirs, ours))
        # Of a script's reply the fourth line tells what is left, which is a time however short its number is.
        left = re.compile(rb"\A((?:[^\n]*\n){3})(-?\d+)(?=\n)")
        if (one_left := left.match(theirs)) and (other_left := left.match(ours)):
            if abs(int(one_left[2]) - int(other_left[2])) > NEAR:
                return False
            theirs, ours = (left.sub(rb"\1", text) for text in (theirs, ours))
        one, other = (re.split(rb"(\d{5,})", text) for text in (theirs, ours))
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(theirs, int) and isinstance(ours, int) and not isinstance(ours, bool):
        return abs(theirs - ours) <= (NEAR if abs(theirs) > 800 else 0)
    return bool(theirs == ours)


def near(one: bytes, other: bytes) -> bool:
    """Two texts that are equal, or two times that are close, in milliseconds or, as tokens are, in microseconds."""
    if not (one.isdigit() and other.isdigit() and len(one) > 4):
        return one == other
    return abs(int(one) - int(other)) <= (NEAR * 1000 if len(one) > 14 else NEAR)


STEPS = st.one_of(
    st.tuples(st.just("campaign"), st.sampled_from(MES), st.sampled_from(["claims", "died", ""]), st.booleans()),
    st.tuples(
        st.sampled_from(["renew", "reclaim"]), st.sampled_from(MES), st.booleans(), st.sampled_from([0, 0, 1, 2, 2])
    ),
    st.tuples(st.sampled_from(["poll", "post", "collect"]), st.sampled_from(MES)),
    st.tuples(st.just("release"), st.sampled_from(MES), st.booleans(), st.sampled_from([0, 30])),
    st.tuples(st.just("lose"), st.sampled_from(protocol.KEYS)),
    st.tuples(st.just("garbage"), st.sampled_from(["kind", "token", "until", "request", "holder"])),
    st.tuples(st.just("wrong type"), st.sampled_from(protocol.KEYS)),
    st.tuples(st.sampled_from(["flush", "status"])),
)
JOBS = st.one_of(
    st.tuples(
        st.just("claim"),
        st.sampled_from(MES),
        st.integers(0, 6),
        st.sampled_from(get_args(InDoubt)),
        st.sampled_from(get_args(LastRun)),
        st.sampled_from([0, 1]),
    ),
    st.tuples(st.just("finish"), st.sampled_from(MES), st.integers(0, 6)),
)
LED = [("campaign", MES[0], "", False), ("campaign", MES[0], "claims", False)]
EARLY = 10_000
"""A slot before all others, in ms."""


class Seen(NamedTuple):
    """What a candidate remembers of the last reply."""

    token: int = 0
    version: str = ""
    holder: str = ""
    memory: str = ""
    slots: int = EARLY
    """A slot, in ms, from which the others are counted."""


def request(step: tuple[Any, ...], seen: Seen) -> Request:
    """Return the request of a step of a history."""
    token, now = seen.token, datetime(2026, 1, 1, tzinfo=timezone.utc)
    requests = Requests(CONFIG, step[1] if len(step) > 1 else "")
    match step:
        case ("campaign", me, claims, late):
            version = seen.version if claims == "claims" else ""
            dead = (seen.holder, token) if claims == "died" else ("", 0)
            preconditions = Preconditions(
                token * late, version, not_after=1.0 if late and not claims else 0.0, dead=dead
            )
            return requests.campaign(preconditions, f"process of {me}", now)
        case ("poll", _):
            return requests.poll()
        case ("renew", _, _, more):
            return requests.renew(token + more, now, now)
        case ("reclaim", _, confirm, more):
            preconditions = Preconditions(acknowledged_version=seen.version if more else "")
            return requests.reclaim(token + more % 2, now, now, preconditions, "", confirm=confirm)
        case ("release", _, leave, delay):
            preconditions = Preconditions(acknowledged_version=seen.version)
            return requests.release(token, "resigned", preconditions, leave=leave, delay=delay)
        case ("post", me):
            return requests.post(me, {"duplicate": me})
        case ("collect", _):
            return requests.collect()
        case ("status",):
            return requests.status()
        case ("claim", me, number, in_doubt, last_run, own):
            slot = seen.slots + 1000 * number
            claims = [
                Claim(name, slot, slot - 1000, f"c{number}", 10.0, in_doubt, last_run, own * (slot - 1000))
                for name in ("first", "second")
            ]
            return SlotRequests(CONFIG.keys, me, token, 0.0).claim(claims, 9e12, seen.memory)
        case ("finish", me, number):
            end = End(token, "first", seen.slots + 1000 * number, f"c{number}", "failed", 1.5, "ValueError: x")
            return SlotRequests(CONFIG.keys, me, token, 0.0).finish([end])
    raise AssertionError(step)


def play(both: Both, step: tuple[Any, ...], number: int, seen: list[Seen]) -> list[Seen]:
    """One step of a history. Gives what was seen of each server then: their clocks are not quite equal."""
    if step[0] not in protocol.NAMES:
        disturb(both, step)
        return seen
    theirs, ours = (request(step, one).words(b"%d" % number) for one in seen)
    count = int(theirs[0]) + 1
    both_said = both.eval(
        protocol.sources()[step[0]], tuple(theirs[1:count]), tuple(theirs[count:]), tuple(ours[count:])
    )
    if step[0] in ("campaign", "reclaim") and isinstance(both_said[0], bytes):
        answers = map(replies.answer, both_said)
        return [
            old._replace(
                token=answer.token or old.token,
                version=answer.version,
                holder=answer.holder or old.holder,
                slots=old.slots if old.slots > EARLY else round(answer.at * 1000) - 5000,
            )
            for answer, old in zip(answers, seen, strict=True)
        ]
    if step[0] == "claim" and isinstance(both_said[0], bytes):
        memories = (decisions(reply, 2).memory for reply in both_said)
        return [old._replace(memory=memory) for old, memory in zip(seen, memories, strict=True)]
    return seen


def disturb(both: Both, step: tuple[Any, ...]) -> None:
    """What the scripts do not do themselves."""
    match step:
        case ("lose", key):
            both.command("DEL", key)
        case ("flush",):
            both.real.flushall()
            both.model.store.load(({}, {}))
        case ("garbage", field) if both.real.type(protocol.KEYS[2]) == b"hash":
            both.command("HSET", protocol.KEYS[2], field, "-1")
        case ("wrong type", key):
            both.command("DEL", key)
            both.command("RPUSH" if key != protocol.KEYS[5] else "SET", key, "x")


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_the_embedded_server_answers_as_real_ones_do(client: redis.Redis) -> None:
    compared(client, 60, st.lists(STEPS, min_size=1, max_size=25))


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_it_decides_claims_as_real_ones_do(client: redis.Redis) -> None:
    lost = st.sampled_from([("lose", protocol.SLOTS.decode()), ("lose", protocol.RUNS.decode()), ("flush",)])
    more = st.lists(st.one_of(JOBS, JOBS, JOBS, lost, STEPS), min_size=1, max_size=20)
    compared(client, 40, more.map(lambda steps: [*LED, *steps]))


def compared(client: redis.Redis, count: int, histories: Any) -> None:
    @settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(histories)
    def check(history: list[tuple[Any, ...]]) -> None:
        both = Both(client)
        seen = [Seen(), Seen()]
        for number, step in enumerate(history, 1):
            seen = play(both, step, number, seen)
            both.compare()

    check()


@pytest.mark.parametrize("client", SERVERS, indirect=True)
@pytest.mark.parametrize(
    "code",
    [
        "return {1.9, -1.9, 'a', redis.call('GET', 'none'), true, nil, 7}",
        "return {redis.call('GET', 'none'), {1, {'x'}}, redis.status_reply('fine')}",
        "return redis.error_reply('NOPERM no')",
        "return redis.call('SET', 'k', 'v', 'PX', 0)",
        "redis.call('SET', 'k', 'v') redis.call('LLEN', 'k') return 1",
        "redis.call('SET', 'k', 'v') local e = redis.pcall('LLEN', 'k') return {redis.call('GET', 'k'), e.err ~= nil}",
        "redis.call('SET', 'k', 'v', 'PX', 60000) redis.call('SET', 'k', 'w') return redis.call('PTTL', 'k')",
        "redis.call('SET', 'k', 1.5) return redis.call('SET', 'k', 3, 'PX', 900, 'GET')",
        "redis.call('HSET', 'h', 'a', 1, 'b', 2) redis.call('HDEL', 'h', 'a', 'b') return redis.call('EXISTS', 'h')",
        "redis.call('ZADD', 'z', 2, 'b', 1, 'c', 2, 'a') return redis.call('ZRANGE', 'z', 0, -1)",
        "redis.call('ZADD', 'z', 2, 'b', 1, 'c') return redis.call('ZREMRANGEBYSCORE', 'z', '-inf', '(2')",
        "redis.call('ZADD', 'z', 2, 'b', 1, 'c', 1, 'a') "
        "return redis.call('ZRANGE', 'z', '-inf', '(2', 'BYSCORE', 'LIMIT', 0, 1)",
        "redis.call('ZADD', 'z', 2, 'b', 1, 'c', 1, 'a') return redis.call('ZRANGE', 'z', -2, -1)",
        "redis.call('ZADD', 'z', 2, 'b', 1, 'c') return {redis.call('ZREM', 'z', 'b', 'c'), redis.call('ZCARD', 'z')}",
        "redis.call('ZADD', 'z', 2, 'b', 1, 'c') return redis.call('ZCOUNT', 'z', 2, '+inf')",
        "redis.call('RPUSH', 'l', 'a', 'b') return {redis.call('LPOP', 'l'), redis.call('LRANGE', 'l', -5, 9)}",
        "redis.call('SET', 'k', 'v') return {redis.call('PEXPIRE', 'k', -1), redis.call('PTTL', 'k')}",
        "return redis.call('PEXPIRE', 'none', 5)",
        "return redis.call('GET', 'k', 1, nil)",
        "local x = nil + 1",
        "return redis.call('TYPE', 'none')",
    ],
)
def test_replies_are_converted_as_redis_converts_them(client: redis.Redis, code: str) -> None:
    both = Both(client)
    both.eval(code, (), ())
    both.compare()
