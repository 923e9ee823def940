"""What a child of a fork must not do for its parent. The child is invented; real ones are in tests/process."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.connection import Connection, ConnectionPool, SSLConnection

from django_leader import forks, sentinel
from django_leader.forks import Forked, OwnSocket, check, own, poll
from django_leader.waker import Waker

LONG = 20.0


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Has this process be another one from now on."""
    with monkeypatch.context() as patch:
        yield lambda: patch.setattr(os, "getpid", lambda: -1)


Fork = Callable[[], None]


@pytest.fixture
def pair() -> Iterator[tuple[OwnSocket, socket.socket]]:
    """A socket of this process, and the other end."""
    ours, other = socket.socketpair()
    ours.settimeout(LONG)
    yield OwnSocket(ours, os.getpid()), other
    ours.close()
    other.close()


Pair = tuple[OwnSocket, socket.socket]


def test_a_process_is_told_from_its_child(fork: Fork) -> None:
    pid = os.getpid()
    check(pid)
    fork()
    with pytest.raises(Forked):
        check(pid)


def test_a_socket_of_this_process_is_like_any_other(pair: Pair) -> None:
    ours, other = pair
    other.sendall(b"12345")
    buffer = bytearray(2)
    assert (ours.recv_into(buffer), bytes(buffer)) == (2, b"12")
    assert ours.recv(1, socket.MSG_PEEK) == b"3"
    assert ours.recv(9) == b"345"
    assert (ours.fileno() >= 0, ours.gettimeout()) == (True, LONG)
    ours.settimeout(None)
    threading.Timer(0.05, other.sendall, (b"6",)).start()
    assert ours.recv(9) == b"6"
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv(9)
    ours.settimeout(0.0)
    with pytest.raises(BlockingIOError):
        ours.recv(9)
    other.close()
    assert ours.recv(9) == b""


def test_what_does_not_fit_into_the_buffers_is_sent_when_it_does(pair: Pair) -> None:
    ours, other = pair
    read, size = bytearray(), 1 << 22

    def read_all() -> None:
        while len(read) < size:
            read.extend(other.recv(1 << 16))

    reader = threading.Thread(target=read_all)
    reader.start()
    ours.sendall(bytes(size))
    reader.join(LONG)
    assert read == bytes(size)
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(size))


class Tls:
    """A socket that says so, as those of TLS do in the standard library and in gevent, when it must wait first."""

    def __init__(self, sock: socket.socket, *first: Any) -> None:
        self._sock, self._first = sock, list(first)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _next(self, call: Callable[[Any], Any], argument: Any) -> Any:
        if self._first and isinstance(found := self._first.pop(0), Exception):
            raise found
        return call(argument) if not self._first else found

    def recv(self, size: int) -> Any:
        return self._next(self._sock.recv, size)

    def send(self, data: Any) -> Any:
        return self._next(self._sock.send, data)


def test_tls_may_have_to_write_for_a_read_and_read_for_a_write() -> None:
    ours, other = socket.socketpair()
    ours.settimeout(LONG)
    other.sendall(b"reply")
    waits = [ssl.SSLWantReadError(), ssl.SSLWantWriteError()]
    own_socket: Any = OwnSocket(Tls(ours, *waits), os.getpid())  # type: ignore[arg-type]
    assert own_socket.recv(9) == b"reply"
    other.sendall(b"more")
    ours.settimeout(LONG)
    own_socket = OwnSocket(Tls(ours, *waits, 0, None), os.getpid())  # type: ignore[arg-type]
    own_socket.sendall(b"request")
    assert other.recv(9) == b"request"
    ours.close()
    other.close()


def test_s06_a_child_neither_reads_nor_sends(pair: Pair, fork: Fork) -> None:
    ours, other = pair
    other.sendall(b"reply")
    fork()
    for does in (lambda: ours.recv(9), lambda: ours.recv_into(bytearray(9)), lambda: ours.sendall(b"request")):
        with pytest.raises(Forked):
            does()
    assert poll([other.fileno()], 0.0) == []
    assert ours._sock.recv(9) == b"reply"


def test_s06_a_fork_during_a_wait_is_seen_before_the_read(pair: Pair, fork: Fork) -> None:
    ours, other = pair

    def fork_and_reply() -> None:
        fork()
        other.sendall(b"reply")

    threading.Timer(0.05, fork_and_reply).start()
    with pytest.raises(Forked):
        ours.recv(9)
    assert ours._sock.recv(9) == b"reply"


def test_without_poll_select_does(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """eventlet takes it away."""
    monkeypatch.delattr(select, "poll")
    ours, other = pair
    assert poll([ours.fileno()], 0.0) == []
    assert poll([ours.fileno()], 0.0, [other.fileno()]) == [other.fileno()]
    other.sendall(b"x")
    assert poll([ours.fileno()], LONG) == [ours.fileno()]


class Made(Connection):
    """Connects to one end of a pair, and ``forks`` while it does."""

    ours, other = socket.socket(), socket.socket()
    ours.close()
    other.close()
    forks: Fork = staticmethod(lambda: None)

    def _connect(self) -> socket.socket:
        self.ours, self.other = socket.socketpair()
        self.forks()
        return self.ours

    def close(self) -> None:
        self.ours.close()
        self.other.close()


def test_s06_a_connection_belongs_to_the_process_that_made_it() -> None:
    connection: Any = own(Made)()
    assert isinstance(connection._connect(), OwnSocket)
    connection.close()
    assert own(Made) is own(Made)
    assert issubclass(own(SSLConnection), SSLConnection)


def test_s06_a_child_takes_over_no_connection_that_was_being_made(fork: Fork) -> None:
    connection: Any = own(Made)()
    connection.forks = fork
    with pytest.raises(Forked):
        connection._connect()
    assert connection.ours.fileno() == -1, "given back"
    connection.close()
    with pytest.raises(Forked):
        connection._connect()
    assert connection.other.fileno() == -1, "no second try"


def test_s06_the_sentinels_are_asked_on_sockets_of_this_process() -> None:
    client = sentinel._client(redis.Redis(connection_pool=ConnectionPool(connection_class=Made)), 1.0)
    assert client.connection_pool.connection_class is own(Made)


def test_a_connection_without_a_real_socket_is_left_as_it_is() -> None:
    class Fake(Connection):
        def _connect(self) -> Any:
            return "no socket"

    connection: Any = own(Fake)()
    assert connection._connect() == "no socket"
    forks.close_silently("no socket")


def test_s19_a_child_neither_wakes_its_parent_nor_takes_its_wake_up(fork: Fork) -> None:
    waker = Waker()
    waker.set()
    fork()
    with pytest.raises(Forked):
        waker.wait(0.0)
    waker._pid = -1
    assert waker.wait(0.0) == (True, False), "still there"
    waker._pid = 0
    waker.set()
    waker._pid = -1
    assert waker.wait(0.0) == (False, False)
    waker.close()


def test_s19_a_fork_while_a_waker_waits_is_seen_before_the_wake_up_is_taken(fork: Fork) -> None:
    waker = Waker()

    def fork_and_wake() -> None:
        fork()
        waker._writer.send(b"!")  # as the parent does

    threading.Timer(0.05, fork_and_wake).start()
    with pytest.raises(Forked):
        waker.wait(LONG)
    waker._pid = -1
    assert waker.wait(0.0) == (True, False)
    waker.close()
