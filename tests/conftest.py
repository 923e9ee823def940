"""Servers for whoever asks for one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from tests.support.servers import RedisServer, program

# No test judges speed: the machine may be busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
# A shell has what it runs in the background ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have each worker of xdist begin with some of the long tests, so that none of them is left alone at the end.

    A long test is one with a time limit of its own. One that is marked ``quiet`` runs last, when the others are done or
    nearly so.
    """
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    quiet = [item for item in items if item.get_closest_marker("quiet")]
    long = [item for item in items if item.get_closest_marker("timeout") and item not in quiet]
    short = [item for item in items if not item.get_closest_marker("timeout") and item not in quiet]
    share = -(-len(short) // workers)
    items[:] = [
        item
        for number in range(workers)
        for item in (*long[number::workers], *short[number * share : (number + 1) * share])
    ] + quiet


def need(found: object, what: str) -> None:
    """Skips the test where ``what`` is missing; under CI it fails."""
    if not found:
        message = f"{what} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{message}, and CI=true")
        pytest.skip(message, allow_module_level=True)


def _server(name: str, *arguments: str) -> RedisServer:
    path = program(name)
    need(path, f"the server {name}")
    assert path
    return RedisServer(path, *arguments).start()


@pytest.fixture(autouse=True)
def nothing_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves an election behind, which would lead in the tests that follow."""
    yield
    lifecycle: Any = getattr(sys.modules.get("django_leader.runtime.lifecycle"), "lifecycle", None)
    running = lifecycle._running() if lifecycle else []
    left = [election for election in running if not election._candidacy.stopping]  # those end by themselves
    for election in running:
        election.stop(timeout=5)
    assert not left, f"{request.node.nodeid} has left {left[0].label} running"


@pytest.fixture(scope="session")
def _some_server() -> Iterator[RedisServer]:
    server = _server("valkey" if program("valkey") else "redis-server")
    yield server
    server.close()


@pytest.fixture
def some_server(_some_server: RedisServer) -> RedisServer:
    """A server of whatever kind there is, empty, which the test does no harm."""
    _some_server.client().flushall()
    return _some_server


@pytest.fixture
def start_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers with arguments of the test's own, and ends them."""
    started: list[RedisServer] = []

    def start(*arguments: str) -> RedisServer:
        started.append(_server("valkey" if program("valkey") else "redis-server", *arguments))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may kill."""
    server = _server("valkey" if program("valkey") else "redis-server")
    yield server
    server.close()
