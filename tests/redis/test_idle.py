"""A connection that ends while it is idle: by a restart, by the server's ``timeout``, by a proxy, by ``CLIENT KILL``.

Whoever uses it next goes on with a new one. The leases here last longer than a test waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection, RedisUnavailable
from django_leader.exceptions import LeaderError
from django_leader.protocol.config import inbox
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.protocol.scripts import FLAGS, SOURCES, WITH_FLAGS, script
from django_leader.redis.channel import Channel
from django_leader.redis.connector import connector
from django_leader.system import clock
from django_leader.system.waker import Waker
from tests.chaos.proxy import HARMS, Network, Proxy
from tests.support.lease import Lease, blpop, call
from tests.support.servers import GENEROUS, RedisServer, eventually

WAIT = b"*3\r\n$4\r\nWAIT\r\n$1\r\n0\r\n$2\r\n10\r\n"
Make = Callable[..., LeaderElection]
LONG = {"lock_ttl": 60.0, "heartbeat_interval": 15.0, "retry_interval": 2.0, "quarantine": 0}
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", quarantine=0).validate()
A, B = (f"{name}:{'0' * 15}{number}" for number, name in enumerate("ab"))


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes elections, each with connections of its own, and stops them."""
    made: list[LeaderElection] = []

    def make(port: int, **options: Any) -> LeaderElection:
        made.append(LeaderElection(redis.Redis(port=port), Config(**{**LONG, **options})))
        return made[-1]

    yield make
    for election in made:
        election.stop(timeout=1)


@pytest.fixture
def proxy(some_server: RedisServer) -> Iterator[Proxy]:
    network = Network()
    made = Proxy(network, lambda: some_server.port)
    yield made
    made.close()
    network.close()


@pytest.fixture
def channel(proxy: Proxy) -> Iterator[Channel]:
    waker = Waker()
    made = Channel(connector(redis.Redis(port=proxy.port).connection_pool), 5, waker)
    yield made
    made.drop()
    waker.close()


@pytest.fixture
def lease(proxy: Proxy, some_server: RedisServer) -> Iterator[Lease]:
    """At a server that knows all scripts. Otherwise the lost reply could be that it does not."""
    waker = Waker()
    made = Lease(connector(redis.Redis(port=proxy.port).connection_pool), CONFIG, waker)
    for name in SOURCES.keys() - {"state"}:
        flags = FLAGS if some_server.major >= 7 and name in WITH_FLAGS else ""
        some_server.client().script_load(script(name, flags).source)
    yield made
    made.channel.drop()
    waker.close()


def info(instance: str = "a") -> LeaderInfo:
    return LeaderInfo(instance, "host")


def kill_clients(admin: redis.Redis) -> None:
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]


def waiting(admin: redis.Redis) -> list[str]:
    """The addresses of those who wait at the server."""
    return [client["addr"] for client in admin.client_list() if "b" in client["flags"]]


def two(make: Make, port: int, **options: Any) -> tuple[LeaderElection, LeaderElection]:
    leader, follower = make(port, instance_id="first", **options), make(port, instance_id="second", **options)
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    follower.start()
    eventually(lambda: follower.status().candidates == 2)
    return leader, follower


@pytest.mark.parametrize("goes", ["stop", "resign"])
def test_who_goes_away_hands_over_though_all_connections_were_killed(
    make: Make, some_server: RedisServer, caplog: pytest.LogCaptureFixture, goes: str
) -> None:
    caplog.set_level(logging.INFO)
    leader, follower = two(make, some_server.port)
    admin = some_server.client()
    eventually(lambda: waiting(admin))
    kill_clients(admin)
    getattr(leader, goes)()
    eventually(follower.is_leader, "the other one leads, long before the lease is over")
    ends = [(event.kind, event.instance_id) for event in follower.history() if event.kind != "elected"]
    assert ends == [("resigned", "first")]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert "BLPOP was refused" not in caplog.text


def test_a_follower_whose_wait_was_ended_from_outside_waits_again_at_once(make: Make, some_server: RedisServer) -> None:
    _, follower = two(make, some_server.port, retry_interval=14.0)
    admin = some_server.client()
    before = eventually(lambda: waiting(admin))
    kill_clients(admin)
    after = eventually(lambda: [address for address in waiting(admin) if address not in before])
    assert len(after) == 1
    assert not follower.outage


def test_a_server_that_closes_idle_connections_is_no_outage(
    make: Make, start_server: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("--timeout", "1")
    election = make(server.port, heartbeat_interval=2.5)
    caplog.set_level(logging.INFO)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token, outages = election.fencing_token, set[str]()
    lasts = election.status().leader
    with closing(server.client()) as admin:

        def beaten() -> bool:
            outages.add(election.outage)
            found = election.status().leader
            return bool(found and lasts and found.last_heartbeat != lasts.last_heartbeat)

        for _ in range(2):
            eventually(lambda: not others(admin), "the server has closed the connection")
            eventually(beaten, "a heartbeat has come")
            lasts = election.status().leader
    assert election.fencing_token == token
    assert outages == {""}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def others(admin: redis.Redis) -> list[Any]:
    me = admin.client_id()
    return [client for client in admin.client_list() if int(client["id"]) != me]


def test_a_server_that_closes_every_connection_at_once_is_an_outage(
    make: Make, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    election = make(proxy.port, lock_ttl=6.0, heartbeat_interval=0.3)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    proxy.close_lines("fresh")
    eventually(lambda: election.outage, "it is told")
    assert election.outage == f"localhost:{proxy.port} closed the connection"
    eventually(lambda: "is unreachable" in caplog.text)
    proxy.heal()
    eventually(lambda: not election.outage)
    assert caplog.text.count("is unreachable") == 1


@pytest.mark.parametrize("harm", HARMS)
def test_every_script_goes_on_with_a_new_connection(lease: Lease, proxy: Proxy, harm: str) -> None:
    """Also if the first request was executed, and its reply is lost."""

    def idle() -> None:
        assert call(lease.channel, "PING") == b"PONG"
        proxy.close_lines(harm)
        if harm.startswith("idle"):
            eventually(lambda: not proxy.lines, "the connection is closed")

    def go_on() -> None:
        proxy.heal()

    lease.status()
    idle()
    grant = lease.campaign(A, Preconditions(), info())
    assert (grant.verdict, grant.holder) == ("granted", A)
    go_on()
    idle()
    renewed = lease.renew(A, grant.token, info(), Preconditions(acknowledged_version=grant.version))
    assert (renewed.verdict, renewed.token) == ("renewed", grant.token)
    go_on()
    idle()
    confirmed = lease.renew(A, grant.token, info(), Preconditions(acknowledged_version=renewed.version), confirm=True)
    assert (confirmed.verdict, confirmed.token) == ("renewed", grant.token)
    go_on()
    idle()
    polled = lease.poll(B, 0)
    assert polled is None or polled.holder == A, (
        "a campaign must tell, unless the end was noticed just before the request"
    )
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (held.verdict, held.holder) == ("held", A)
    go_on()
    idle()
    assert lease.status().leader
    go_on()
    idle()
    lease.post(A, {"duplicate": B})
    go_on()
    assert lease.collect(A)[0] == {"duplicate": B}
    idle()
    released = lease.release(
        A, grant.token, "resigned", Preconditions(acknowledged_version=confirmed.version), leave=True
    )
    assert released == (harm != "reply lost"), "one that was released before is released, too, but cannot tell by whom"
    go_on()
    assert lease.status().leader is None
    assert [event.kind for event in lease.history(9)].count("resigned") == 1


def test_a_campaign_that_is_executed_twice_grants_a_new_term(
    lease: Lease, proxy: Proxy, some_server: RedisServer
) -> None:
    """It is sent again because the first reply was lost."""
    if some_server.major < 7:
        pytest.skip("Redis 6.2 may free a closed connection before it has executed what came by it")
    lease.status()
    proxy.close_lines("reply lost")
    grant = lease.campaign(A, Preconditions(), info())
    proxy.heal()
    assert [event.kind for event in lease.history(9)] == ["elected", "elected"]
    assert grant.token == lease.status().fencing_token
    assert lease.renew(A, grant.token, info(), Preconditions(acknowledged_version=grant.version)).verdict == "renewed"


def test_a_message_that_is_sent_again_after_it_was_executed_arrives_twice(
    lease: Lease, proxy: Proxy, some_server: RedisServer
) -> None:
    if some_server.major < 7:
        pytest.skip("Redis 6.2 may free a closed connection before it has executed what came by it")
    lease.status()
    proxy.close_lines("reply lost")
    lease.post(A, {"duplicate": B})
    proxy.heal()
    assert lease.collect(A) == [{"duplicate": B}, {"duplicate": B}]


def test_s13_replicas_are_never_asked_on_another_connection_than_that_of_the_grant(
    channel: Channel, proxy: Proxy
) -> None:
    """There WAIT would count all replicas, whatever they have."""
    for harm in HARMS:
        call(channel, "PING")
        proxy.close_lines(harm)
        if harm.startswith("idle"):
            eventually(lambda: not proxy.lines)
        with pytest.raises(RedisUnavailable):
            channel.call(WAIT, same_connection=True)
        proxy.heal()
    with pytest.raises(RedisUnavailable, match="closed the connection"):
        channel.call(WAIT, same_connection=True)


def test_s13_replicas_are_asked_on_the_connection_that_was_looked_at(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may come between two looks; a second look would make a new one."""
    call(channel, "PING")
    monkeypatch.setattr(channel, "_open", lambda: pytest.fail("looks again"))
    assert channel.call(WAIT, same_connection=True) == 0


def test_a_wait_that_was_ended_twice_is_an_error(channel: Channel, proxy: Proxy, some_server: RedisServer) -> None:
    call(channel, "PING")
    admin, found = some_server.client(), list[object]()

    def wait() -> None:
        try:
            found.append(channel.wait(blpop("wake"), clock.now() + 2 * GENEROUS))
        except LeaderError as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    killed: list[str] = []
    for _ in range(2):
        killed += eventually(lambda: [address for address in waiting(admin) if address not in killed])  # noqa: B023
        assert found == []
        kill_clients(admin)
    thread.join(GENEROUS)
    assert len(found) == 1
    assert isinstance(found[0], RedisUnavailable)


def test_a_wait_that_was_ended_is_resumed_for_its_remaining_time(channel: Channel, some_server: RedisServer) -> None:
    call(channel, "PING")
    admin, found = some_server.client(), list[object]()
    thread = threading.Thread(target=lambda: found.append(channel.wait(blpop("wake"), clock.now() + GENEROUS)))
    thread.start()
    before = eventually(lambda: waiting(admin))
    kill_clients(admin)
    eventually(lambda: waiting(admin) not in ([], before))
    admin.rpush("wake", "0")
    thread.join(GENEROUS)
    assert found == [(b"wake", b"0")]


def test_a_message_is_lost_with_the_reply_that_carries_it(lease: Lease, proxy: Proxy, some_server: RedisServer) -> None:
    """The next message in the inbox is not."""
    lease.status()
    client = some_server.client()
    client.rpush(inbox(CONFIG.keys, A), '{"duplicate": "x"}')
    proxy.close_lines("reply lost")
    assert lease.collect(A) == []
    eventually(lambda: not client.exists(inbox(CONFIG.keys, A)), "the server has sent what was lost")
    client.rpush(inbox(CONFIG.keys, A), '{"duplicate": "y"}')
    assert lease.collect(A) == [{"duplicate": "y"}]
