"""A Redis Cluster, which is not supported: every node says so in words, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, ConfigError, LeaderElection, RedisUnavailable
from tests.support.servers import RedisServer, eventually, free_port

FAST: dict[str, Any] = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
TOLD = (
    r"this is a Redis Cluster \(it answered {}\), which django-leader does not support yet; use a single server or Se"
)
Make = Callable[..., LeaderElection]
Nodes = Callable[..., list[RedisServer]]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[LeaderElection] = []

    def make(node: RedisServer, **options: Any) -> LeaderElection:
        made.append(LeaderElection(redis.Redis(port=node.port), Config(**FAST, **options), name="reports"))
        return made[-1]

    yield make
    for election in made:
        election.stop(timeout=0)


@pytest.fixture
def nodes(start_server: Callable[..., RedisServer]) -> Nodes:
    """Starts a cluster of so many nodes; ``served``: how many of the 16384 slots they serve."""

    def nodes(count: int, served: int = 16384) -> list[RedisServer]:
        if start_server().major < 7:
            pytest.skip("Redis 6.2 cannot be told on which port the nodes of a cluster talk")
        # By default the nodes talk on a port that is higher by 10000, which there may not be.
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "60000", "--cluster-port"]
        started = [start_server(*options, str(free_port())) for _ in range(count)]
        share = served // count
        for number, node in enumerate(started):
            admin = node.client()
            if share:
                ask(admin, "CLUSTER", "ADDSLOTSRANGE", number * share, (number + 1) * share - 1)
            for other in started[:number]:
                ask(admin, "CLUSTER", "MEET", "127.0.0.1", other.port, other.more[-1])
        state = b"cluster_state:" + (b"ok" if served == 16384 else b"fail")
        eventually(lambda: all(state in ask(node.client(), "CLUSTER", "INFO", raw=True) for node in started))
        return started

    return nodes


def ask(client: Any, *words: Any, raw: bool = False) -> Any:
    """As it is answered, which redis-py may parse otherwise."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response(disable_decoding=raw)
    finally:
        client.connection_pool.release(connection)


def stays_away(election: LeaderElection, caplog: pytest.LogCaptureFixture, code: str) -> None:
    election.start()
    eventually(lambda: election._candidacy and election._candidacy.shared.state.failures >= 3)
    assert election.wait_for_leadership(0) is False
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(
        "LEADER_ELECTIONS['reports']: Redis refused a request of the election (this is a Redis Cluster"
    )
    assert election.outage == TOLD.format(code).replace("\\", "") + "ntinel"
    assert "127.0.0.1" not in told[0]


def test_a_cluster_of_one_node_is_told_as_what_it_is(
    make: Make, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    [node] = nodes(1)
    election = make(node)
    with pytest.raises(RedisUnavailable, match=r"^LEADER_ELECTIONS\['reports'\]: " + TOLD.format("CROSSSLOT")):
        election.status()
    stays_away(election, caplog, "CROSSSLOT")


def test_a_node_that_has_not_the_keys_is_told_as_a_cluster(
    make: Make, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    """All keys in one slot, by a hash tag, are on one of the two nodes."""
    one_slot = {"redis_key_name": "{a}:lock", "redis_info_key_name": "{a}:info"}
    found = []
    for node in nodes(2):
        election = make(node, **one_slot)
        try:
            election.history()
            found.append("OK")
        except RedisUnavailable as error:
            found.append(str(error))
            stays_away(election, caplog, "MOVED")
    assert sorted(found) == ["LEADER_ELECTIONS['reports']: " + TOLD.format("MOVED").replace("\\", "") + "ntinel", "OK"]


def test_a_cluster_without_all_its_slots_is_told_as_what_it_is(make: Make, nodes: Nodes) -> None:
    [node] = nodes(1, served=0)
    with pytest.raises(RedisUnavailable, match=TOLD.format("CLUSTERDOWN")):
        make(node, redis_key_name="{a}:lock", redis_info_key_name="{a}:info").history()


def test_the_client_of_a_cluster_is_refused_by_the_election(nodes: Nodes) -> None:
    [node] = nodes(1)
    client: Any = redis.RedisCluster(host="127.0.0.1", port=node.port)
    match = r"^this is a Redis Cluster \(RedisCluster\), which django-leader does not support yet"
    with pytest.raises(ConfigError, match=match):
        LeaderElection(client)
    with pytest.raises(ConfigError, match=match):
        LeaderElection(lambda: client).status()
    client.close()


@pytest.mark.parametrize("client", [None, 7, "redis://localhost", redis.ConnectionPool()])
def test_what_is_no_client_is_refused(client: Any) -> None:
    match = f"^client must be a redis.Redis or a function that returns one, and is {type(client).__name__}$"
    with pytest.raises(ConfigError, match=match):
        LeaderElection(client)
    with pytest.raises(ConfigError, match=match):
        LeaderElection(lambda: client).start()
