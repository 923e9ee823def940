"""Fenced writes: what the scripts refuse on each kind of server, and what elections make of it on a real one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from django.core.cache import caches
from pytest_django import Settings
from redis.exceptions import ResponseError

from django_leader import Config, ConfigError, LeaderElection, NotLeader, RedisUnavailable, StaleToken
from django_leader.protocol import fence
from django_leader.protocol.records import NO_PRECONDITIONS, LeaderInfo, Preconditions
from django_leader.redis.connector import Connect, connector
from django_leader.redis.fence import RefusedWrite, write
from django_leader.runtime.grant import NO_GRANT, Grant, new_cell
from django_leader.runtime.local import Local
from django_leader.system import clock
from tests.redis.conftest import FAST, Make
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, RedisServer, eventually

CONFIG = Config(quarantine=0, lock_ttl=3).validate()
OPTIONS: dict[str, Any] = dict(FAST)
FIRST, SECOND = "first:0123456789abcdef", "second:0123456789abcdef"
MARK = fence.mark_key(CONFIG.keys)


def lead(lease: Lease, candidate: str = FIRST, preconditions: Preconditions = NO_PRECONDITIONS) -> int:
    answer = lease.campaign(candidate, preconditions, LeaderInfo("x"))
    assert answer.verdict == "granted"
    return answer.token


def set_as(client: redis.Redis, token: int, value: str, *, kind: str = "state", body: str = fence.COMMAND) -> Any:
    mark = CONFIG.keys.state if kind == "state" else MARK
    return write(client, fence.fenced(body), (mark, "key"), (kind, token, "SET", "key", value))


def refusal(client: redis.Redis, token: int, *, kind: str = "state") -> str:
    """The code of the refusal of a write, which must leave the key as it is."""
    before = client.get("key")
    with pytest.raises(RefusedWrite) as error:
        set_as(client, token, "refused", kind=kind)
    assert client.get("key") == before
    return error.value.code


def test_the_state_lets_the_term_that_leads_write_and_no_other(client: redis.Redis, connect: Connect) -> None:
    lease = Lease(connect, CONFIG)
    first = lead(lease)
    set_as(client, first, "by the first")
    assert client.get("key") == b"by the first"
    assert refusal(client, first - 1) == fence.STALE
    assert refusal(client, first + 1) == fence.UNMARKED, "Redis has not heard of this term"
    lease.release(FIRST, first, "resigned", leave=True)
    assert refusal(client, first) == fence.STALE
    second = lead(lease, SECOND)
    assert refusal(client, first) == fence.STALE, "before the second has written"
    set_as(client, second, "by the second")
    assert client.get("key") == b"by the second"


def test_the_state_lets_nobody_write_when_the_lease_is_over(client: redis.Redis, connect: Connect) -> None:
    token = lead(Lease(connect, CONFIG))
    client.hset(CONFIG.keys.state, "until", 1)
    assert refusal(client, token) == fence.STALE


def test_a_lost_state_lets_nobody_write_until_it_is_set_again(client: redis.Redis, connect: Connect) -> None:
    lease = Lease(connect, Config(quarantine=60, lock_ttl=3).validate())
    client.flushall()
    assert refusal(client, 7) == fence.UNMARKED
    assert lease.campaign(SECOND, Preconditions(highest_token=7), LeaderInfo("x")).verdict == "quarantined"
    assert refusal(client, 7) == fence.UNMARKED
    assert refusal(client, 6) == fence.STALE
    assert lease.renew(FIRST, 7, LeaderInfo("x")).verdict == "renewed"
    set_as(client, 7, "again")
    assert client.get("key") == b"again"


def test_a_mark_refuses_lower_tokens_and_is_raised_by_higher_ones(client: redis.Redis, connect: Connect) -> None:
    assert refusal(client, 7, kind="token") == fence.UNMARKED
    Lease(connect, CONFIG).lease.ask(fence.raise_mark(CONFIG.keys, 7))
    set_as(client, 7, "7", kind="token")
    assert refusal(client, 6, kind="token") == fence.STALE
    set_as(client, 9, "9", kind="token")
    assert client.get(MARK) == b"9"
    assert refusal(client, 8, kind="token") == fence.STALE
    Lease(connect, CONFIG).lease.ask(fence.raise_mark(CONFIG.keys, 8))
    assert client.get(MARK) == b"9", "it never goes down"
    client.delete(MARK)
    assert refusal(client, 9, kind="token") == fence.UNMARKED


@pytest.mark.parametrize("forged", ["", "x", "-1", "1e3", "9" * 17])
def test_a_mark_that_is_no_token_counts_as_none(client: redis.Redis, connect: Connect, forged: str) -> None:
    client.set(MARK, forged)
    assert refusal(client, 7, kind="token") == fence.UNMARKED
    Lease(connect, CONFIG).lease.ask(fence.raise_mark(CONFIG.keys, 7))
    assert client.get(MARK) == b"7"


def test_tokens_are_compared_as_numbers(client: redis.Redis, connect: Connect) -> None:
    Lease(connect, CONFIG).lease.ask(fence.raise_mark(CONFIG.keys, 9))
    highest = 2**53 - 1
    set_as(client, 10, "more digits", kind="token")
    set_as(client, highest, "the highest", kind="token")
    assert client.get(MARK) == b"%d" % highest
    assert refusal(client, highest - 1, kind="token") == fence.STALE


def test_a_script_finds_its_own_keys_and_arguments(client: redis.Redis, connect: Connect) -> None:
    token = lead(Lease(connect, CONFIG))
    body = "local found = {KEYS[1], #KEYS, ARGV[1], #ARGV}\nreturn found"
    assert set_as(client, token, "x", body=body) == [b"key", 1, b"SET", 3]


def test_an_error_of_the_write_itself_is_no_refusal(client: redis.Redis, connect: Connect) -> None:
    token = lead(Lease(connect, CONFIG))
    with pytest.raises(ResponseError, match="number of arg"):
        write(client, fence.fenced(fence.COMMAND), (CONFIG.keys.state,), ("state", token, "SET", "alone"))
    client.lpush(MARK, "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        set_as(client, 7, "x", kind="token")


# Elections


def led(make: Make, client: redis.Redis | None = None, **options: Any) -> LeaderElection:
    election = make(client, **options)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    return election


@pytest.fixture
def target(some_server: RedisServer) -> redis.Redis:
    """Another database of the server."""
    return redis.Redis(port=some_server.port, db=1)


def test_the_leader_writes_and_a_former_one_is_refused(make: Make, some_server: RedisServer) -> None:
    client = some_server.client()
    election = led(make)
    fenced, term = election.fenced(client), election.term()
    bound = election.fenced(client, term=term)
    fenced.set("text", "a", px=60_000)
    assert 0 < client.pttl("text") <= 60_000
    fenced.set("text", "b", ex=60)
    assert fenced.hset("hash", "one", 1, mapping={"two": 2}) == 2
    assert (fenced.incr("number"), fenced.incr("number", 4)) == (1, 5)
    assert fenced.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "number", 2) == 7
    assert fenced.delete("hash", "absent") == 1
    assert bound.incr("number") == 8
    assert election.resign()
    assert term
    assert term.lost.wait(GENEROUS)
    with pytest.raises(NotLeader, match=r"does not lead, and so does not write\. Write in the process that leads"):
        fenced.set("text", "c")
    assert election.wait_for_leadership(GENEROUS)
    fenced.set("text", "d")
    with pytest.raises(StaleToken, match=rf"a write of the term with token {term.token} was refused"):
        bound.set("text", "e")
    assert client.get("text") == b"d"
    assert client.exists(fence.mark_key(election.config.keys)) == 0, "the state is the mark"


def test_redis_refuses_a_writer_that_believes_to_lead(make: Make, some_server: RedisServer) -> None:
    """Its clock stands still, as that of a process does which is paused."""
    election = led(make, instance_id="first")
    fenced = election.fenced(some_server.client())
    token = election.fencing_token
    election.stop()
    other = led(make, instance_id="second")
    assert token
    election.override(None)
    election._publish(Grant(token, new_cell(clock.now() + 1000)))
    assert election.is_leader()
    with pytest.raises(StaleToken):
        fenced.set("text", "late")
    assert some_server.client().get("text") is None
    other.fenced(some_server.client()).set("text", "new")


def test_the_mark_elsewhere_is_raised_before_the_gain_callbacks(make: Make, target: redis.Redis) -> None:
    election = make()
    seen: list[bytes | None] = []
    election.fenced(target)
    election.fenced(redis.Redis(connection_pool=target.connection_pool))
    key = fence.mark_key(election.config.keys)
    for _ in range(3):
        election.on_become_leader(lambda: seen.append(target.get(key)))  # type: ignore[arg-type]
    election.listen(lambda token: seen.append(target.get(key)), lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
    election.start()
    eventually(lambda: len(seen) == 4)
    assert seen == [b"%d" % (election.fencing_token or 0)] * 4
    assert len(election._listeners.fences) == 1


def test_it_is_raised_where_there_is_no_callback(make: Make, target: redis.Redis) -> None:
    election = make()
    election.fenced(target)
    election.start()
    eventually(lambda: target.get(fence.mark_key(election.config.keys)) == b"%d" % (election.fencing_token or 0))


def test_a_former_leader_is_refused_elsewhere_before_the_next_writes(make: Make, target: redis.Redis) -> None:
    first, second = make(instance_id="first"), make(instance_id="second")
    old = first.fenced(target)
    second.fenced(target)
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    old.set("text", "first")
    token = first.fencing_token
    first.stop()
    gained = threading.Event()
    second.on_become_leader(gained.set)
    second.start()
    assert gained.wait(GENEROUS)
    assert token
    first._publish(Grant(token, new_cell(clock.now() + 1000)))
    with pytest.raises(StaleToken):
        old.set("text", "late")
    assert target.get("text") == b"first"


def test_a_lost_mark_is_raised_again_by_the_term_that_leads_alone(make: Make, target: redis.Redis) -> None:
    first, second = led(make, instance_id="first"), make(instance_id="second")
    old = first.fenced(target)  # for the first time in a term, so the mark was not raised at its beginning
    old.set("text", "first")
    assert target.get(fence.mark_key(first.config.keys)) == b"%d" % (first.fencing_token or 0)
    target.flushdb()
    assert old.incr("number") == 1
    token = first.fencing_token
    first.stop()
    second.start()
    assert second.wait_for_leadership(GENEROUS)
    target.flushdb()
    assert token
    first._publish(Grant(token, new_cell(clock.now() + 1000)))
    with pytest.raises(StaleToken):
        old.set("text", "late")
    assert target.keys() == []
    second.fenced(target).set("text", "second")


def test_a_target_that_is_away_ends_no_term(
    make: Make, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.stop()
    election, gained = make(), threading.Event()
    fenced = election.fenced(own_server.client())
    election.on_become_leader(gained.set)
    election.start()
    assert gained.wait(GENEROUS)
    assert election.is_leader()
    [record] = [record for record in caplog.records if "fence" in record.getMessage()]
    assert record.levelno == logging.WARNING
    text = f"the fence of another Redis could not be raised (localhost:{own_server.port}: connection refused)."
    assert record.getMessage().startswith(f"LEADER_ELECTIONS['default']: {text}")
    with pytest.raises(redis.exceptions.ConnectionError):
        fenced.set("text", "x")
    own_server.start()
    fenced.set("text", "x")
    assert own_server.client().get("text") == b"x"


def test_a_loss_of_data_refuses_writes_until_the_next_heartbeat(make: Make, some_server: RedisServer) -> None:
    election = led(make, quarantine=None)
    fenced, client = election.fenced(some_server.client()), some_server.client()
    token = election.fencing_token

    def refused() -> bool:
        client.flushall()
        try:
            fenced.set("text", "x")
        except RedisUnavailable as error:
            text = "LEADER_ELECTIONS['default']: nothing was written, because Redis has lost data and does not know who"
            return str(error).startswith(text)
        return False

    eventually(refused, "a write between a loss of data and the heartbeat")

    def written() -> bool:
        try:
            fenced.set("text", "y")
        except RedisUnavailable:
            return False
        return client.get("text") == b"y"

    eventually(written)
    assert election.fencing_token == token


def test_an_election_that_has_lost_its_data_confirms_nothing(make: Make, target: redis.Redis) -> None:
    election = led(make)
    election.fenced(target)
    with pytest.raises(RedisUnavailable, match="nothing was written"):
        election._confirm((election.fencing_token or 0) + 1)
    with pytest.raises(StaleToken):
        election._confirm((election.fencing_token or 0) - 1)


def test_a_mark_that_is_lost_at_once_again_is_no_endless_loop(make: Make, target: redis.Redis) -> None:
    election = led(make)
    fenced = election.fenced(target)
    real = election._raise_mark

    def lost(client: redis.Redis, token: int) -> None:
        real(client, token)
        target.flushdb()

    election._raise_mark = lost  # type: ignore[method-assign]
    with pytest.raises(RedisUnavailable, match="nothing was written"):
        fenced.set("text", "x")


# Targets


BACKENDS = ["django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"]


@pytest.fixture(params=BACKENDS)
def cache(request: pytest.FixtureRequest, some_server: RedisServer, settings: Settings) -> Any:
    settings.CACHES = {
        "default": {"BACKEND": request.param, "LOCATION": f"redis://127.0.0.1:{some_server.port}/0"},
        "other": {
            "BACKEND": request.param,
            "LOCATION": f"redis://127.0.0.1:{some_server.port}/1",
            "KEY_PREFIX": "mine",
            "VERSION": 2,
            "TIMEOUT": 500,
        },
    }
    return caches["other"]


def test_a_cache_reads_what_was_written_to_it_fenced(make: Make, cache: Any, target: redis.Redis) -> None:
    election = led(make)
    fenced = election.fenced(cache)
    fenced.set("key", {"any": ["value"]})
    assert cache.get("key") == {"any": ["value"]}
    [name] = target.keys("mine*")
    assert 0 < target.ttl(name) <= 500
    fenced.set("key", "for good", timeout=None)
    assert (target.ttl(name), cache.get("key")) == (-1, "for good")
    fenced.set("key", "short", timeout=0.5)
    assert 0 < target.pttl(name) <= 500
    fenced.set("key", "of version 3", version=3)
    assert (cache.get("key", version=3), cache.get("key")) == ("of version 3", "short")
    fenced.set("key", "none", timeout=0)
    assert cache.get("key") is None
    fenced.set("number", 3)
    assert fenced.incr("number", 4) == cache.get("number") == 7
    with pytest.raises(ValueError, match="Key 'absent' not found"):
        fenced.incr("absent")
    assert (fenced.delete("number"), fenced.delete("number")) == (True, False)
    assert target.exists(fence.mark_key(election.config.keys)) == 1


def test_a_cache_on_the_database_of_the_election_needs_no_mark(
    make: Make, cache: Any, some_server: RedisServer
) -> None:
    election = make(redis.Redis(host="127.0.0.1", port=some_server.port))
    fenced = election.fenced(caches["default"])
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    fenced.set("key", "x")
    assert caches["default"].get("key") == "x"
    assert some_server.client().exists(fence.mark_key(election.config.keys)) == 0


@pytest.mark.parametrize("overridden", [True, False])
def test_without_an_election_in_redis_the_own_term_alone_is_checked(
    overridden: bool, cache: Any, target: redis.Redis
) -> None:
    """In tests, and with LOCAL."""
    election = LeaderElection(redis.Redis(port=1) if overridden else Local(), Config(**OPTIONS))
    to_cache, to_redis = election.fenced(cache), election.fenced(target)
    if overridden:
        election.override(Grant(1, new_cell(float("inf"))))
    else:
        election.start()
        assert election.wait_for_leadership(GENEROUS)
    to_cache.set("key", 1)
    assert to_cache.incr("key") == cache.get("key") == 2
    assert to_cache.delete("key") is True
    to_redis.set("text", "x")
    assert to_redis.incr("number") == 1
    assert target.exists(fence.mark_key(election.config.keys)) == 0
    election.stop()
    election.override(NO_GRANT)
    for write_it in (lambda: to_cache.set("key", 2), lambda: to_redis.set("text", "y")):
        with pytest.raises(NotLeader):
            write_it()
    assert target.get("text") == b"x"


def test_a_cache_elsewhere_is_refused_when_it_is_written_to(make: Make, settings: Settings) -> None:
    """In a test it may be one, and is written to under an override."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    election = led(make)
    fenced = election.fenced(caches["default"])
    with pytest.raises(ConfigError, match="was given a cache that is not on one server of Redis"):
        fenced.set("key", "x")
    election.override(Grant(1, new_cell(float("inf"))))
    fenced.set("key", "x")
    assert caches["default"].get("key") == "x"
    election.override(None)


def cluster() -> Any:
    return type("RedisCluster", (), {})()


@pytest.mark.parametrize(
    ("make_target", "why"),
    [
        (cluster, "this is a Redis Cluster"),
        (lambda: redis.asyncio.Redis(), r"was given a redis\.asyncio\.client\.Redis"),
        (lambda: redis.Redis().pipeline(), r"was given a redis\.client\.Pipeline"),
        (lambda: "redis://127.0.0.1", r"was given a builtins\.str"),
    ],
)
def test_what_cannot_be_fenced_is_refused_at_once(make: Make, make_target: Callable[[], Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make().fenced(make_target())


def test_a_term_of_another_election_is_refused_at_once(make: Make, target: redis.Redis) -> None:
    other = LeaderElection(Local(), name="other")
    other.override(Grant(1, new_cell(float("inf"))))
    with pytest.raises(ConfigError, match="other'\\], current> is of another election; give a term of this one"):
        make().fenced(target, term=other.term())


def test_a_server_that_does_not_know_the_script_is_sent_it(make: Make, some_server: RedisServer) -> None:
    election = led(make)
    some_server.client().script_flush()
    fenced = election.fenced(some_server.client())
    assert fenced.incr("number") == 1
    some_server.client().script_flush()
    assert fenced.incr("number") == 2


def test_the_connector_of_a_pool_knows_its_database(target: redis.Redis, some_server: RedisServer) -> None:
    own = connector(some_server.client().connection_pool).database
    assert own == connector(redis.Redis(port=some_server.port).connection_pool).database
    assert own != connector(target.connection_pool).database
