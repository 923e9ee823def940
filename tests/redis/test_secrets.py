"""No secret is told, whatever fails: in errors and their tracebacks, in what health checks read, or in the log."""

from __future__ import annotations

import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.credentials import CredentialProvider
from redis.sentinel import Sentinel

from django_leader import Config, LeaderElection, RedisUnavailable
from django_leader.runtime.worker import Worker
from tests.support.servers import GENEROUS, RedisServer, eventually, free_port

SECRET = "hunter2"
FAST = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
Told = Callable[[Any], str]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    """Everything that a person can read of an election with such a client."""
    made: list[LeaderElection] = []
    caplog.set_level(logging.DEBUG, "django_leader")

    def told(client: Any) -> str:
        election = LeaderElection(client, Config(**FAST))  # type: ignore[arg-type]
        made.append(election)
        with pytest.raises(RedisUnavailable) as raised:
            election.status()
        election.start()
        eventually(lambda: election.outage and "recovers by itself" in caplog.text)
        error, ours = raised.value, raised.value.__traceback__
        assert ours
        with_locals = traceback.TracebackException(type(error), error, ours.tb_next, capture_locals=True)
        return "\n".join([str(error), *with_locals.format(), election.outage, caplog.text])

    yield told
    for election in made:
        election.stop(timeout=0)


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """Starts servers that give one answer to everything. Gives the port."""
    listeners: list[socket.socket] = []

    def serve(listener: socket.socket, reply: bytes) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                if client.recv(4096):
                    client.sendall(reply)

    def start(reply: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, reply), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_of_sentinels_that_do_not_answer_the_address_is_told(told: Told) -> None:
    ports = free_port(), free_port()
    passwords: Any = {"sentinel_kwargs": {"username": "somebody", "password": SECRET}, "password": SECRET}
    sentinel: Any = Sentinel([("127.0.0.1", port) for port in ports], **passwords)  # type: ignore[no-untyped-call]
    said = told(sentinel.master_for("mymaster"))
    reasons = "; ".join(f"127.0.0.1:{port}: connection refused" for port in ports)
    assert f"no Sentinel names a primary for 'mymaster' ({reasons})" in said
    assert SECRET not in said
    assert "somebody" not in said


def test_what_a_sentinel_answers_is_not_repeated(told: Told, answering: Callable[[bytes], int]) -> None:
    port = answering(b"-ERR unknown command `AUTH`, with args beginning with: `hunter2`, \r\n")
    sentinel: Any = Sentinel([("127.0.0.1", port)], sentinel_kwargs={"password": SECRET})  # type: ignore[no-untyped-call]
    said = told(sentinel.master_for("mymaster"))
    assert "for 'mymaster' (Redis answered an error: it does not know AUTH)" in said
    assert SECRET not in said


def test_what_a_server_answers_is_not_repeated(told: Told, answering: Callable[[bytes], int]) -> None:
    port = answering(b"-ERR unknown command `AUTH`, with args beginning with: `hunter2`, \r\n")
    said = told(redis.Redis(host="127.0.0.1", port=port, password=SECRET))
    assert "Redis answered an error: it does not know AUTH" in said
    assert SECRET not in said


def test_a_reply_that_is_none_is_not_repeated(told: Told, answering: Callable[[bytes], int]) -> None:
    port = answering(b"?hunter2\r\n")
    said = told(redis.Redis(host="127.0.0.1", port=port, password=SECRET))
    why = f"127.0.0.1:{port} does not speak the protocol of Redis; check whether a proxy or another program answers"
    assert f"Redis answers, but not what it was asked for ({why}" in said
    assert SECRET not in said


class Denied(Exception):
    pass


def test_what_a_credential_provider_raises_is_not_repeated(told: Told, some_server: RedisServer) -> None:
    class Provider(CredentialProvider):
        def get_credentials(self) -> Any:
            raise Denied(SECRET)

    said = told(redis.Redis(port=some_server.port, credential_provider=Provider()))
    assert f"localhost:{some_server.port} cannot be used (Denied)" in said
    assert SECRET not in said


def test_of_an_unexpected_exception_the_type_and_the_place_are_told(
    some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> float:
        raise KeyError(SECRET)

    election = LeaderElection(redis.Redis(port=some_server.port), Config(**FAST))  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_act", fails)
        election.start()
        eventually(lambda: "recovers by itself" in caplog.text)
        assert election.outage == "KeyError"
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    assert "an error keeps this process from asking Redis (KeyError)" in caplog.text
    assert "> fails (test_secrets.py:" in caplog.text
    assert SECRET not in caplog.text
