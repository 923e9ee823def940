"""The connection of an election belongs to one process: in a child of a fork it refuses, and leaves the parent alone.

The child is invented. The parent's share of the connection is a copy of its descriptor.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.connection import Connection

from django_leader import Config, LeaderElection, RedisUnavailable
from django_leader.protocol.records import Preconditions, utc_now
from django_leader.protocol.requests import SECONDS, Requests
from django_leader.protocol.template import GarbledReply, Request, command
from django_leader.redis import channel as module
from django_leader.redis.channel import Channel, ConnectionClosed
from django_leader.redis.connector import connector
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.forks import Forked
from django_leader.system.waker import Waker, readable
from tests.support.lease import blpop, call
from tests.support.servers import GENEROUS, RedisServer, eventually

Fork = Callable[[], None]


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fork]:
    """Has this process be another one from now on."""
    with monkeypatch.context() as patch:
        yield lambda: patch.setattr(os, "getpid", lambda: -1)


@pytest.fixture
def channel(some_server: RedisServer) -> Iterator[Channel]:
    waker = Waker()
    made = Channel(connector(redis.Redis(port=some_server.port).connection_pool), 5, waker)
    yield made
    made.drop()
    waker.close()


def copy(channel: Channel) -> socket.socket:
    connection: Any = channel._connection
    made = socket.socket(fileno=os.dup(connection._sock.fileno()))
    made.settimeout(GENEROUS)
    return made


PING = b"*1\r\n$4\r\nPING\r\n"
ASKS: list[Callable[[Channel], object]] = [
    lambda channel: call(channel, "SET", "touched", 1),
    lambda channel: channel.call(b"*3\r\n$3\r\nSET\r\n$7\r\ntouched\r\n$1\r\n1\r\n"),
    lambda channel: channel.wait(blpop("wake"), clock.now() + GENEROUS),
    lambda channel: channel.wait(blpop("wake"), clock.now()),
    lambda channel: channel.open(),
]


@pytest.mark.parametrize("ask", ASKS)
def test_s06_a_child_sends_nothing_and_closes_its_descriptor_without_a_word(
    channel: Channel, fork: Fork, some_server: RedisServer, ask: Callable[[Channel], object]
) -> None:
    call(channel, "PING")
    with copy(channel) as parent:
        inherited: Any = channel._connection
        descriptor = inherited._sock.fileno()
        fork()
        for _ in range(2):
            with pytest.raises(Forked):
                ask(channel)
            assert not channel.connected
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        parent.sendall(PING)
        assert parent.recv(100) == b"+PONG\r\n", "the parent's connection is as before"
    assert some_server.client().get("touched") is None


def test_s06_a_child_reads_no_reply(channel: Channel, fork: Fork, some_server: RedisServer) -> None:
    call(channel, "PING")
    connection: Any = channel._connection
    with copy(channel) as parent:
        connection.send_command("ECHO", "reply")
        channel._wait_reply_due = clock.now() + GENEROUS
        fork()
        with pytest.raises(Forked):
            channel.wait(blpop("wake"), clock.now() + GENEROUS)
        assert parent.recv(100) == b"$5\r\nreply\r\n"


def test_s06_a_fork_before_a_wait_whose_reply_is_there_is_seen(
    channel: Channel, fork: Fork, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greenlet of another thread may fork while this one sends."""
    call(channel, "PING")
    some_server.client().rpush("wake", "0")
    send = module._send

    def forks_meanwhile(connection: Any, packed: bytes) -> None:
        send(connection, packed)
        assert readable([connection._sock.fileno()], GENEROUS)
        fork()

    monkeypatch.setattr(module, "_send", forks_meanwhile)
    with copy(channel) as parent:
        with pytest.raises(Forked):
            channel.wait(blpop("wake"), clock.now() + GENEROUS)
        assert parent.recv(100) == b"*2\r\n$4\r\nwake\r\n$1\r\n0\r\n"


def test_s06_a_fork_during_a_wait_is_seen_before_the_reply_is_read(
    channel: Channel, fork: Fork, some_server: RedisServer
) -> None:
    call(channel, "PING")
    admin, found = some_server.client(), list[object]()

    def wait() -> None:
        with pytest.raises(Forked) as error:
            channel.wait(blpop("wake"), clock.now() + GENEROUS)
        found.append(error.value)

    with copy(channel) as parent:
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: any("b" in client["flags"] for client in admin.client_list()))
        fork()
        admin.rpush("wake", "0")
        thread.join(GENEROUS)
        assert len(found) == 1
        assert parent.recv(100) == b"*2\r\n$4\r\nwake\r\n$1\r\n0\r\n"


@pytest.mark.parametrize("does", ["connect", "read_response"])
def test_s06_a_fork_during_a_request_is_seen_before_its_reply_counts(
    channel: Channel, fork: Fork, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    real = getattr(Connection, does)

    def forks_meanwhile(self: Connection, *args: Any, **kwargs: Any) -> Any:
        reply = real(self, *args, **kwargs)
        fork()
        return reply

    monkeypatch.setattr(Connection, does, forks_meanwhile)
    with pytest.raises(Forked):
        call(channel, "SET", "touched", 1)
    assert not channel.connected
    assert (some_server.client().get("touched") is None) == (does == "connect")


def test_s06_a_failure_in_a_child_is_no_failure_of_redis(
    channel: Channel, fork: Fork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails because the connection is its parent's."""
    call(channel, "PING")

    def fail(*args: Any, **kwargs: Any) -> None:
        fork()
        raise redis.TimeoutError("the time of a connect is over in both")

    monkeypatch.setattr(channel, "_open", fail)
    with pytest.raises(Forked):
        call(channel, "PING")
    assert not channel.connected


def test_dropping_and_hanging_up_in_a_child_leaves_the_parents_connections(channel: Channel, fork: Fork) -> None:
    call(channel, "PING")
    with copy(channel) as parent:
        channel._wait_reply_due = clock.now() + GENEROUS
        fork()
        channel.cancel_wait()
        channel.drop()
        parent.sendall(PING)
        assert parent.recv(100) == b"+PONG\r\n"


@pytest.fixture
def election(some_server: RedisServer) -> Iterator[LeaderElection]:
    config = Config(lock_ttl=30.0, heartbeat_interval=0.2, retry_interval=0.2, quarantine=0)
    made = LeaderElection(redis.Redis(port=some_server.port), config)
    yield made
    made.stop()


def test_a_query_that_a_child_goes_on_with_raises_redis_unavailable(
    election: LeaderElection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any query that gets no answer."""

    def forked(lease: Lease) -> None:
        raise Forked

    monkeypatch.setattr(Lease, "status", forked)
    with pytest.raises(RedisUnavailable, match="inherited through fork"):
        election.status()


def test_s19_the_loop_ends_in_a_child_without_a_word(
    election: LeaderElection, fork: Fork, some_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[str] = []
    election.on_lose_leadership(lambda: lost.append("told"))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy: Any = election._candidacy
    # What a child inherits is wiped, but this is none.
    admin = some_server.client()
    before = admin.xlen(election.config.keys.events)
    caplog.set_level(logging.INFO)
    caplog.clear()
    fork()
    candidacy._thread.join(GENEROUS)
    assert not candidacy._thread.is_alive()
    assert (candidacy.shared.ended, candidacy._worker.lease.channel.connected, lost, caplog.text) == (
        True,
        False,
        [],
        "",
    )
    assert admin.get(election.config.keys.lock) == candidacy.shared.candidate_id.encode(), "the lease is the parent's"
    assert admin.xlen(election.config.keys.events) == before
    assert admin.zscore(election.config.keys.candidates, candidacy.shared.candidate_id) is not None


def test_s19_nothing_is_applied_published_or_logged_in_a_child(
    election: LeaderElection, fork: Fork, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a greenlet of the application was in ``stop()`` or ``resign()``."""
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy: Any = election._candidacy
    state = candidacy.shared.state
    fork()
    caplog.set_level(logging.INFO)
    caplog.clear()
    candidacy.shared._log.gained(7)
    candidacy.stop(here=True)
    candidacy._worker._failed(RedisUnavailable("the descriptor was closed"))
    candidacy._delivered(state.term.token)
    assert candidacy.shared.state is state or candidacy.shared.ended, "only a child's own loop has given it up"
    assert caplog.text == ""


def test_s19_a_release_that_a_child_goes_on_with_ends_there(
    election: LeaderElection, fork: Fork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy: Any = election._candidacy

    def forked(*args: Any) -> None:
        fork()
        raise Forked

    monkeypatch.setattr(candidacy._worker, "_act", forked)
    caplog.clear()
    election.stop(timeout=GENEROUS)
    assert not election.running
    assert caplog.text == ""


def test_s19_who_waits_for_the_election_in_a_child_waits_no_longer(
    election: LeaderElection, some_server: RedisServer
) -> None:
    """A greenlet of the application, which finds that its process is not participating."""
    other = LeaderElection(redis.Redis(port=some_server.port), election._given, name="other")
    other.start()
    assert other.wait_for_leadership(GENEROUS)
    election.start()
    eventually(lambda: election._candidacy and election._candidacy.shared.attempts)
    found: list[bool] = []
    waits = threading.Thread(target=lambda: found.append(election.wait_for_leadership(None)), daemon=True)
    waits.start()
    candidacy: Any = election._candidacy
    eventually(lambda: candidacy.shared.changed._waiters)
    candidacy.abandon()
    waits.join(GENEROUS)
    assert found == [False]
    other.stop()


def test_a_wait_that_was_cut_short_eats_no_wake_up(some_server: RedisServer) -> None:
    admin, waker = some_server.client(), Waker()
    channel = Channel(connector(redis.Redis(port=some_server.port).connection_pool), 5, waker)

    seen: set[str] = set()

    def only_a_new_one_waits() -> bool:
        waiting = {client["id"] for client in admin.client_list() if "b" in client["flags"]}
        return len(waiting) == 1 and not waiting & seen and not seen.update(waiting)  # type: ignore[func-returns-value]

    found: list[Any] = []

    def wait() -> None:
        found.append(channel.wait(blpop("wake"), clock.now() + GENEROUS))

    for _ in range(2):
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(only_a_new_one_waits)
        waker.set()
        thread.join()
    thread = threading.Thread(target=wait)
    thread.start()
    eventually(only_a_new_one_waits, "one connection waits, not those of the waits that were cut short, too")
    admin.rpush("wake", "0")
    thread.join()
    assert found == [None, None, (b"wake", b"0")]
    channel.drop()
    waker.close()


def test_a_wait_that_is_answered_by_something_else_is_a_garbled_reply(channel: Channel) -> None:
    ping = Request(command(("PING", SECONDS), lambda reply: reply, (SECONDS,)))
    with pytest.raises(GarbledReply, match="the reply to BLPOP does not belong to its request"):
        channel.wait(ping, clock.now() + GENEROUS)
    assert not channel.connected


@pytest.mark.parametrize("name", ["poll", "renew"])
def test_a_lean_request_never_leaves_on_a_new_connection(some_server: RedisServer, name: str) -> None:
    """That could lead to another server, which neither of them checks."""
    config = Config().validate()
    lease = Lease(connector(redis.Redis(port=some_server.port).connection_pool), config)
    requests = Requests(config, "me:0123456789abcdef", os.getpid())
    lean = requests.poll() if name == "poll" else requests.renew(1, utc_now(), utc_now())
    lease.ask(requests.campaign(Preconditions(), "", utc_now()))
    lease.ask(lean)
    number = lease.channel.connection
    some_server.client().client_kill_filter(_type="normal", skipme=True)
    eventually(lambda: lease.channel.connection is None)
    with pytest.raises(ConnectionClosed):
        lease.send(lean)
    lease.ask(requests.campaign(Preconditions(), "", utc_now()))
    assert lease.channel.connection not in (None, number)
    lease.ask(lean)
    lease.channel.drop()
