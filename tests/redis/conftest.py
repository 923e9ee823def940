"""One lease on each kind of server (fakeredis, Valkey, Redis), and elections on a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import fakeredis
import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.protocol.template import Request
from django_leader.redis.connector import Connect, connector
from django_leader.runtime.candidacy import Candidacy
from tests.conftest import need
from tests.support.servers import SERVERS, RedisServer, eventually, program

FAST = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
Make = Callable[..., LeaderElection]


def on_release(candidacy: Candidacy, does: Callable[[Request], object]) -> None:
    """Have it do something in the thread from which a release leaves, and right before."""
    lease = candidacy._worker.lease
    real = lease.send

    def send(request: Request, wait: Request | None = None, until: float = 0.0) -> Any:
        if request.template.name == "release":
            does(request)
        return real(request, wait, until)

    lease.send = send  # type: ignore[method-assign]


def eventually_idle(candidacy: Candidacy) -> None:
    """Wait until a leader's election thread waits for its next heartbeat."""
    worker = candidacy._worker
    eventually(lambda: "release" in worker.session.requests._last and not worker._io_lock.locked(), "it is idle")


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, RedisServer]]:
    """The servers that were started so far, by their name."""
    started: dict[str, RedisServer] = {}
    yield started
    for server in started.values():
        server.close()


@pytest.fixture(params=["fakeredis", *SERVERS])
def client(request: pytest.FixtureRequest, servers: dict[str, RedisServer]) -> redis.Redis:
    """A client of the test's own, to an empty database."""
    if request.param == "fakeredis":
        need(find_spec("lupa"), "lupa, which runs the scripts of fakeredis,")
        fake: redis.Redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        return fake
    if request.param not in servers:
        path = program(request.param)
        need(path, f"the server {request.param}")
        assert path
        servers[request.param] = RedisServer(path).start()
    real = servers[request.param].client()
    real.flushall()
    return real


@pytest.fixture
def connect(client: redis.Redis) -> Connect:
    return connector(client.connection_pool)


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    """Makes elections on a real server, and stops them."""
    made: list[LeaderElection] = []

    def make(client: Any = None, **options: Any) -> LeaderElection:
        made.append(LeaderElection(client or redis.Redis(port=some_server.port), Config(**{**FAST, **options})))
        return made[-1]

    yield make
    for election in made:
        election.stop()
