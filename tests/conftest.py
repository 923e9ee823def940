"""Servers for whoever asks for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.servers import RedisServer, program


def need(found: object, what: str) -> None:
    """Skips the test where ``what`` is missing; under CI it fails."""
    if not found:
        message = f"{what} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{message}, and CI=true")
        pytest.skip(message)


def _server(name: str) -> RedisServer:
    path = program(name)
    need(path, f"the server {name}")
    assert path
    return RedisServer(path).start()


@pytest.fixture(scope="session", params=["valkey", "redis-server"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind for all tests that do it no harm."""
    server = _server(request.param)
    yield server
    server.close()


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A server of each kind, empty."""
    shared_server.client().flushall()
    return shared_server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may kill."""
    server = _server("valkey" if program("valkey") else "redis-server")
    yield server
    server.close()
