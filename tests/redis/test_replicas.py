"""Grants that replicas must confirm, and a primary that Sentinel names: real replicas, a real Sentinel."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings
from redis.sentinel import Sentinel

from django_leader import Config, LeaderElection, RedisUnavailable
from django_leader.handler import elections
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.redis.channel import Channel
from django_leader.redis.connector import connector
from testproject.embedded import die_with_parent
from tests.support.lease import Lease, call
from tests.support.servers import GENEROUS, RedisServer, eventually, free_port

A, B = "a:0000000000000000", "b:0000000000000001"
INFO = LeaderInfo("x")
CAREFUL = Config("lock", "info", lock_ttl=60, retry_interval=5, quarantine=120, min_replicas=1).validate()
FAST: dict[str, Any] = {"lock_ttl": 3, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0.1}
Start = Callable[..., RedisServer]


def replica_of(start: Start, primary: RedisServer) -> RedisServer:
    replica = start("--repl-diskless-sync-delay", "0")
    move(replica, primary)
    return replica


def replicas(primary: RedisServer) -> list[Any]:
    """Those that are in step: one that is only "online" may be loading still, and confirms nothing until it has."""
    info = primary.client().info("replication")
    found = [info[f"slave{number}"] for number in range(info["connected_slaves"])]
    return [replica for replica in found if replica["state"] == "online" and replica["offset"]]


def move(replica: RedisServer, primary: RedisServer) -> None:
    """Has a server become the replica of another one, and waits until it is."""
    attached = len(replicas(primary))
    replica.client().replicaof("127.0.0.1", str(primary.port))
    eventually(lambda: len(replicas(primary)) > attached, "the replica is attached")


@pytest.fixture
def primary(start_server: Start) -> RedisServer:
    return start_server("--repl-diskless-sync-delay", "0")


@pytest.fixture
def careful(primary: RedisServer) -> Iterator[Lease]:
    lease = Lease(connector(primary.client().connection_pool), CAREFUL)
    yield lease
    lease.channel.drop()


def lead(lease: Lease, me: str) -> int:
    seen = lease.campaign(me, Preconditions(), INFO)
    granted = lease.campaign(me, Preconditions(expired_version=seen.version), INFO)
    assert granted.verdict == "granted"
    assert lease.renew(me, granted.token, INFO, confirm=True).verdict == "renewed"
    return granted.token


def test_s13_a_grant_and_a_renewal_are_with_a_replica(
    start_server: Start, primary: RedisServer, careful: Lease
) -> None:
    replica = replica_of(start_server, primary)
    token = lead(careful, A)
    assert careful.renew(A, token, INFO).verdict == "renewed"
    assert replica.client().hget("{lock}:state", "token") == str(token).encode()
    replica.stop()
    eventually(lambda: replicas(primary) == [])
    with pytest.raises(RedisUnavailable, match="0 of 1 replicas"):
        careful.renew(A, token, INFO)


def test_s13_a_replica_that_joins_starts_a_quarantine(
    start_server: Start, primary: RedisServer, careful: Lease
) -> None:
    """The leader goes on."""
    replica_of(start_server, primary)
    token = lead(careful, A)
    replica_of(start_server, primary)
    assert careful.renew(A, token, INFO, confirm=True).verdict == "quarantined", "a grant is not confirmed after that"
    assert careful.campaign(B, Preconditions(), INFO).verdict == "quarantined"
    assert careful.history(1)[0].reason == "replica joined"
    answer = careful.renew(A, token, INFO)
    assert (answer.verdict, answer.holder) == ("renewed", A)
    assert careful.campaign(B, Preconditions(), INFO).verdict == "held"


def test_s13_a_replica_that_joins_is_noticed_after_a_reset_of_counters(
    start_server: Start, primary: RedisServer, careful: Lease
) -> None:
    """The counter of joins is 1 before the reset, and is 1 again when the second replica has joined."""
    replica_of(start_server, primary)
    token = lead(careful, A)
    primary.client().config_resetstat()
    replica_of(start_server, primary)
    assert careful.renew(A, token, INFO, confirm=True).verdict == "quarantined"
    assert careful.history(1)[0].reason == "replica joined"


def test_s13_a_replica_that_returns_is_noticed_after_a_reset_of_counters(
    start_server: Start, primary: RedisServer, careful: Lease
) -> None:
    replica, other = replica_of(start_server, primary), replica_of(start_server, primary)
    token = lead(careful, A)
    replica.stop()
    eventually(lambda: len(replicas(primary)) == 1, "it has left")
    assert careful.renew(A, token, INFO, confirm=True).verdict == "renewed", "that one leaves is no reason to stop"
    primary.client().config_resetstat()
    move(replica.start(), primary)
    other.stop()
    eventually(lambda: len(replicas(primary)) == 1, "the other one has left")
    move(other.start(), primary)
    stats = primary.client().info("stats")
    assert (stats["sync_full"], stats["sync_partial_ok"]) == (2, 0), "as before the reset"
    assert careful.renew(A, token, INFO, confirm=True).verdict == "quarantined"


def test_s13_a_replica_that_leaves_starts_no_quarantine(
    start_server: Start, primary: RedisServer, careful: Lease
) -> None:
    replica, _ = replica_of(start_server, primary), replica_of(start_server, primary)
    token = lead(careful, A)
    replica.stop()
    eventually(lambda: len(replicas(primary)) == 1, "it has left")
    assert careful.renew(A, token, INFO, confirm=True).verdict == "renewed"
    assert careful.campaign(B, Preconditions(), INFO).verdict == "held"


def test_s13_a_process_that_asks_for_no_replicas_leaves_the_record_of_them(
    start_server: Start, primary: RedisServer, careful: Lease
) -> None:
    """As while the setting is rolled out."""
    replica_of(start_server, primary)
    token = lead(careful, A)
    careless = Lease(connector(primary.client().connection_pool), replace(CAREFUL, min_replicas=0))
    assert careless.release(A, token, "resigned", leave=True)
    careless.channel.drop()
    assert careful.campaign(B, Preconditions(), INFO).verdict == "granted"


def test_s11_a_promoted_replica_is_another_server(start_server: Start, primary: RedisServer, careful: Lease) -> None:
    replica = replica_of(start_server, primary)
    lead(careful, A)
    primary.stop()
    replica.client().replicaof("NO", "ONE")
    promoted = Lease(connector(replica.client().connection_pool), Config("lock", "info", quarantine=60).validate())
    assert promoted.campaign(B, Preconditions(), INFO).verdict == "quarantined"
    assert promoted.history(1)[0].reason == "another server"
    promoted.channel.drop()


def test_s13_replicas_without_the_setting_are_warned_of(
    start_server: Start, primary: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    replica_of(start_server, primary)
    election = LeaderElection(primary.client(), Config(**FAST))
    with caplog.at_level(logging.WARNING):
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        eventually(lambda: "MIN_REPLICAS" in caplog.text)
    election.stop()


def test_s13_an_election_with_a_replica(start_server: Start, primary: RedisServer) -> None:
    replica_of(start_server, primary)
    first, second = (
        LeaderElection(primary.client(), Config(**FAST, instance_id=name, min_replicas=1)) for name in ("1st", "2nd")
    )
    try:
        first.start()
        assert first.wait_for_leadership(GENEROUS)
        second.start()
        assert second.wait_for_leadership(0) is False
        first.stop()
        assert second.wait_for_leadership(GENEROUS)
    finally:
        first.stop()
        second.stop()


@pytest.fixture
def sentinel(primary: RedisServer, tmp_path: Path) -> Iterator[Sentinel]:
    """One Sentinel, which knows ``primary`` as "mine"."""
    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor mine 127.0.0.1 {primary.port} 1\n")
    process = subprocess.Popen(
        [primary.path, str(config), "--sentinel"], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
    )
    found = Sentinel([("127.0.0.1", 1), ("127.0.0.1", port)], socket_timeout=5)  # type: ignore[no-untyped-call]

    def answers() -> bool:
        try:
            return bool(redis.Redis(port=port, socket_timeout=5).ping())
        except redis.ConnectionError:
            return False

    try:
        eventually(answers)
        yield found
    finally:
        process.kill()
        process.wait()


def test_an_election_behind_sentinel_asks_it_for_the_primary(sentinel: Sentinel) -> None:
    election = LeaderElection(sentinel.master_for("mine"), Config(**FAST))  # type: ignore[no-untyped-call]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert election.get_leader_id() == election.instance_id
    election.stop()


def test_a_sentinel_that_does_not_answer_is_asked_last(sentinel: Sentinel) -> None:
    asked: list[int] = []
    connect = connector(sentinel.master_for("mine").connection_pool)  # type: ignore[no-untyped-call]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        sentinel.sentinels[0].connection_pool.connection_kwargs["port"] = silent.getsockname()[1]
        silent.settimeout(0.2)
        for _ in range(3):
            channel = Channel(connect, 5)  # for each Sentinel: the silent one takes all of it, once
            call(channel, "PING")
            channel.drop()
            with contextlib.suppress(TimeoutError):
                client, address = silent.accept()
                client.close()
                asked.append(address[1])
    assert len(asked) == 1


def test_a_primary_that_sentinel_does_not_know_cannot_be_asked(sentinel: Sentinel) -> None:
    channel = Channel(connector(sentinel.master_for("other").connection_pool), 5)  # type: ignore[no-untyped-call]
    with pytest.raises(RedisUnavailable, match=r"no Sentinel names a primary for 'other' \(.*:\d+ does not know it"):
        call(channel, "PING")


def test_a_cache_behind_sentinel_carries_an_election(sentinel: Sentinel, settings: Settings) -> None:
    port = sentinel.sentinels[1].connection_pool.connection_kwargs["port"]
    settings.DJANGO_REDIS_CONNECTION_FACTORY = "django_redis.pool.SentinelConnectionFactory"
    options = {"CLIENT_CLASS": "django_redis.client.SentinelClient", "SENTINELS": [("127.0.0.1", port)]}
    settings.CACHES = {
        "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://mine/1", "OPTIONS": options}
    }
    settings.LEADER_ELECTIONS = {"default": {name.upper(): value for name, value in FAST.items()}}
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    elections.reset()
