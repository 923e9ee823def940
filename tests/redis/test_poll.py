"""How a follower polls, and waits by the same request: on every server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_leader.protocol.config import Config, inbox
from django_leader.protocol.records import Answer, LeaderInfo, Preconditions
from django_leader.protocol.requests import lasting
from django_leader.protocol.session import Send
from django_leader.redis.channel import ConnectionClosed
from django_leader.redis.connector import Connect
from django_leader.system import clock
from django_leader.system.waker import Waker
from tests.support.driven import Driven
from tests.support.lease import Lease, blpop
from tests.support.servers import GENEROUS, SERVERS, eventually

A, B = (f"{name}:{'0' * 15}{number}" for number, name in enumerate("ab"))
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", quarantine=0).validate()
KEYS = CONFIG.keys
INFO = LeaderInfo("x")


@pytest.fixture
def lease(connect: Connect) -> Iterator[Lease]:
    """Of the follower B, while A leads."""
    waker = Waker()
    lease = Lease(connect, CONFIG, waker)
    lease.campaign(A, Preconditions(), INFO)
    lease.campaign(B, Preconditions(), INFO)
    yield lease
    lease.channel.drop()
    waker.close()


def commands(client: Any) -> dict[str, int]:
    """How often each command was called; empty where the server does not say."""
    try:
        stats = client.info("commandstats")
    except Exception:
        return {}
    return {name: entry["calls"] for name, entry in stats.items()}


def test_a_poll_says_what_a_campaign_would(lease: Lease) -> None:
    campaign, seen = lease.campaign(B, Preconditions(), INFO), poll(lease)
    assert 0 <= campaign.remaining - seen.remaining < GENEROUS
    assert 0 <= seen.at - campaign.at < GENEROUS
    assert seen._replace(remaining=0, at=0, began=0) == campaign._replace(remaining=0, at=0, began=0)
    assert (seen.verdict, seen.holder, seen.duration, seen.candidates) == ("held", A, 10.0, 2)


def test_a_poll_is_one_small_request(lease: Lease, client: Any) -> None:
    poll(lease)  # the server knows the script from here on
    before = commands(client)
    poll(lease)
    after = commands(client)
    called = {name: calls - before.get(name, 0) for name, calls in after.items() if calls != before.get(name, 0)}
    if before:
        ours = {name.removeprefix("cmdstat_") for name in called} - {"info"}
        assert ours == {"evalsha", "hmget", "time", "get", "zadd", "pexpire", "zcount"}


def test_a_poll_tells_that_the_follower_is_there(lease: Lease, client: Any) -> None:
    client.zrem(KEYS.candidates, B)
    poll(lease)
    assert client.zscore(KEYS.candidates, B) > client.time()[0] * 1000


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [
        (lambda client: client.delete(KEYS.lock), "held"),
        (lambda client: client.set(KEYS.lock, "somebody else", px=50_000), "foreign"),
        (lambda client: client.hset(KEYS.state, "until", 1), "expired"),
        (lambda client: client.hset(KEYS.state, "until", "garbage"), "foreign"),
        (lambda client: client.hset(KEYS.state, "kind", "free"), "foreign"),
        (lambda client: client.hset(KEYS.state, "holder", B), "foreign"),
        (lambda client: client.hdel(KEYS.state, "duration"), "foreign"),
        (lambda client: client.hset(KEYS.state, "duration", ""), "foreign"),
        (lambda client: client.hset(KEYS.state, "token", "-1"), "foreign"),
        (lambda client: client.hset(KEYS.state, "request", "1e3"), "foreign"),
        (lambda client: client.flushall(), "granted"),
    ],
)
def test_what_is_not_plainly_held_becomes_a_campaign(lease: Lease, client: Any, harm: Any, verdict: str) -> None:
    harm(client)
    assert poll(lease).verdict == verdict


@pytest.fixture
def follower(lease: Lease) -> Driven:
    """B, by its session, which polls after its first campaign."""
    driven = Driven(lease.lease, CONFIG, B)
    assert driven.due()[0] == "campaign"
    while driven.due() != ["poll"]:  # fakeredis refuses the question for its configuration, which costs a connection
        assert driven.sent == ["campaign"]
    return driven


def test_a_state_older_than_what_the_follower_knows_needs_a_campaign(follower: Driven) -> None:
    """The poll alone cannot tell what it means."""
    follower.state = follower.state._replace(highest_token=2**52)
    assert follower.due() == ["poll", "campaign"]
    assert follower.state.highest_token == 2**52


def test_the_first_request_on_a_connection_is_a_campaign(follower: Driven, client: Any) -> None:
    follower.lease.channel.drop()
    client.hset(KEYS.state, "server_id", "0" * 40)
    assert follower.due()[0] == "campaign"
    assert client.hget(KEYS.state, "kind") == (b"free" if commands(client) else b"lease"), "a campaign finds it lost"


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_a_connection_that_ends_unseen_needs_a_campaign(follower: Driven, client: Any) -> None:
    """As when the server restarts right before the poll: the request fails, and nothing is known to be wrong."""
    poll = follower.session.next(follower.state.next_at, follower.lease.channel.connection)
    assert isinstance(poll, Send)
    client.client_kill_filter(_type="normal", skipme=True)
    eventually(lambda: follower.lease.channel.connection is None)
    with pytest.raises(ConnectionClosed):
        follower.lease.send(poll.request)
    follower.session.failed(poll.request, closed=True)
    assert follower.due()[0] == "campaign"


@pytest.mark.parametrize("client", SERVERS, indirect=True)
@pytest.mark.parametrize("also", ["", "closes the connections"])
def test_a_server_that_has_forgotten_the_poll_is_told_again(follower: Driven, client: Any, also: str) -> None:
    """A wait that is sent behind it is in the way: nothing but its end can be sent on that connection."""

    def turn() -> list[str]:
        sent = [*follower.due()]
        client.rpush(inbox(KEYS, B), "{}")
        follower.hear()
        return sent

    assert [turn() for _ in range(3)] == [["poll"]] * 3
    client.script_flush()
    if also:  # as a server that is new
        client.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: follower.lease.channel.connection is None)
    assert turn()[-1] == "campaign"
    assert [turn() for _ in range(3)] == [["poll"]] * 3


def poll(lease: Lease, highest_token: int = 0, until: float | None = None) -> Answer:
    """A poll, and a campaign if that cannot tell."""
    return lease.poll(B, highest_token, until) or lease.campaign(B, Preconditions(highest_token), INFO)


def nobody_waits(client: Any) -> None:
    """Wait until the server has freed the connection that was closed: Redis 6.2 does so behind what else has come."""
    eventually(lambda: client.info("clients")["blocked_clients"] == 0)


def wait(lease: Lease, seconds: float = GENEROUS) -> tuple[Answer, dict[str, Any] | None]:
    """A poll, and the wait that begins with it."""
    until = clock.now() + seconds
    answer = poll(lease, 0, until)
    return answer, lease.wait(B, wake=True, until=until)


def test_the_wait_begins_with_the_poll(lease: Lease, client: Any) -> None:
    poll(lease)
    client.rpush(KEYS.wake, "1")
    connection = lease.channel._connection
    assert wait(lease)[1] == {"wake": True}
    client.rpush(inbox(KEYS, B), '{"duplicate": "x"}')
    assert wait(lease)[1] == {"duplicate": "x"}
    assert wait(lease, 0.15)[1] is None, "its time is over"
    assert poll(lease).verdict == "held"
    assert lease.channel._connection is connection


def test_a_wait_that_ends_too_early_is_followed_by_another(lease: Lease, client: Any) -> None:
    """The other one waits at the server, too, so that nothing is missed meanwhile."""
    poll(lease)
    poll(lease, 0, clock.now() + 0.1)
    until = clock.now() + 2 * GENEROUS
    assert lease.wait(B, wake=True, until=until) is None
    assert clock.now() < until, "it does not sit deaf at home for the rest"
    client.rpush(KEYS.wake, "1")
    assert lease.wait(B, wake=True, until=until) == {"wake": True}


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_a_wait_that_began_with_a_poll_yields_to_requests(lease: Lease, client: Any) -> None:
    """Its connection is closed, because its BLPOP would take the next element."""
    poll(lease)
    connection = lease.channel._connection
    poll(lease, 0, clock.now() + GENEROUS)
    assert lease.wait(B, wake=True, until=clock.now() + 0.01) is None
    assert poll(lease).verdict == "held"
    assert lease.channel._connection is not connection
    nobody_waits(client)
    client.rpush(KEYS.wake, "0")
    assert wait(lease)[1] == {"wake": True}, "nobody else of us has eaten it"


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_any_other_request_ends_the_wait(lease: Lease, client: Any) -> None:
    poll(lease)
    poll(lease, 0, clock.now() + GENEROUS)
    assert lease.campaign(B, Preconditions(), INFO).verdict == "held"
    nobody_waits(client)
    client.rpush(KEYS.wake, "0")
    assert wait(lease)[1] == {"wake": True}


def test_a_server_that_has_forgotten_the_script_is_told_again(lease: Lease, client: Any) -> None:
    poll(lease)
    client.script_flush()
    client.rpush(KEYS.wake, "0")
    answer, message = wait(lease, 0.5)
    assert answer.verdict == "held"
    # The wait that went with the unknown script may have taken the element: a lost wake-up costs a retry interval.
    assert message in ({"wake": True}, None)


def test_a_leader_hears_by_its_heartbeat_of_what_is_in_its_inbox(lease: Lease, client: Any) -> None:
    granted = lease.campaign(A, Preconditions(), INFO)
    token = granted.token
    assert lease.renew(A, token, INFO, Preconditions(acknowledged_version=granted.version)).mail is False
    assert lease.renew(A, token, INFO).mail is False
    lease.post(A, {"duplicate": "x"})
    client.rpush(inbox(KEYS, A), "garbage", '{"wake": 0}')
    assert lease.renew(A, token, INFO).mail is True
    assert lease.collect(A) == [{"duplicate": "x"}, {}, {}]
    assert lease.renew(A, token, INFO).mail is False
    assert lease.collect(A) == []


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_the_first_poll_eats_nothing_though_the_server_does_not_know_it(lease: Lease, client: Any) -> None:
    client.script_flush()
    client.rpush(inbox(KEYS, B), '{"duplicate": "x"}')
    assert wait(lease)[1] == {"duplicate": "x"}


@pytest.mark.parametrize("client", SERVERS, indirect=True)
def test_what_is_packed_while_a_wait_goes_on_leaves_it_alone(lease: Lease, client: Any) -> None:
    poll(lease)
    poll(lease, 0, clock.now() + GENEROUS)
    connection = lease.channel._connection
    lease.pack(B, Preconditions(7), INFO)
    assert lease.channel._connection is connection
    client.rpush(KEYS.wake, "0")
    assert lease.wait(B, wake=True, until=clock.now() + GENEROUS) == {"wake": True}


@pytest.mark.parametrize("seconds", [-1.0, -0.0015, 0.0])
def test_a_wait_for_no_time_is_not_one_for_ever(seconds: float) -> None:
    assert lasting(blpop("wake"), seconds).endswith(b"\r\n00000000.001\r\n")
