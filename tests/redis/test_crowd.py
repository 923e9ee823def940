"""How one of many followers polls and waits; few of them here, of whom two count as many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.protocol import pace
from django_leader.protocol.template import Request
from django_leader.redis.lease import Lease
from django_leader.system import clock
from tests.support.servers import GENEROUS, RedisServer, eventually

CONFIG = Config(lock_ttl=60, heartbeat_interval=0.3, retry_interval=0.3, quarantine=0)
RARE = 4 * 0.3


class Seen:
    """What each follower has asked."""

    def __init__(self) -> None:
        self.polls = defaultdict[str, list[float]](list)
        self.waits = 0
        """That began by themselves, and not in one piece with a poll."""
        self.woken: list[str] = []

    def rare(self, elections: list[LeaderElection]) -> bool:
        """Whether all poll rarely."""
        last = [self.polls[election.get_instance_id()][-2:] for election in elections]
        return all(len(at) == 2 and at[1] - at[0] > 0.9 * RARE for at in last)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, send, wait = Seen(), Lease.send, Lease.wait

    def sends(self: Lease, request: Request, *following: Any) -> Any:
        if request.template.name == "poll":
            seen.polls[request.template.words[6].decode().partition(":")[0]].append(clock.now())
        return send(self, request, *following)

    def waits(self: Lease, request: Request, until: float, *, exact: bool = True) -> Any:
        seen.waits += self.channel._wait_reply_due is None
        element = wait(self, request, until, exact=exact)
        if element:
            seen.woken.append(request.template.words[1].decode().split(":")[-2])
        return element

    monkeypatch.setattr(pace, "FULL_RATE_CANDIDATES", 1)
    monkeypatch.setattr(Lease, "send", sends)
    monkeypatch.setattr(Lease, "wait", waits)
    return seen


@pytest.fixture
def fleet(seen: Seen, some_server: RedisServer) -> Iterator[list[LeaderElection]]:
    """A leader and three followers, who have come to poll rarely."""
    client = redis.Redis(port=some_server.port)
    made = [LeaderElection(client, Config(**{**vars(CONFIG), "instance_id": name})) for name in "abcd"]
    try:
        made[0].start()
        assert made[0].wait_for_leadership(GENEROUS)
        for follower in made[1:]:
            follower.start()
        eventually(lambda: seen.rare(made[1:]), "the followers poll rarely")
        yield made
    finally:
        for election in made:
            election.stop()


def connection(election: LeaderElection) -> object:
    assert election._candidacy
    return election._candidacy._worker.lease.channel._connection


def test_many_followers_look_more_rarely_and_wait_in_between(fleet: list[LeaderElection], seen: Seen) -> None:
    def goes_on() -> bool:
        """On a machine that is busy elsewhere a wait may come back too late, once."""
        waits, polls = seen.waits, sum(map(len, seen.polls.values()))
        before = [connection(election) for election in fleet[1:]]
        eventually(lambda: sum(map(len, seen.polls.values())) > polls + 6, "two polls of each")
        same = all(connection(election) is known for election, known in zip(fleet[1:], before, strict=True))
        return same and seen.waits > waits and seen.rare(fleet[1:])

    eventually(goes_on)
    assert fleet[0].is_leader()


def test_one_of_many_is_woken_by_a_release(fleet: list[LeaderElection], seen: Seen) -> None:
    def leader() -> LeaderElection:
        found: LeaderElection = eventually(lambda: next((each for each in fleet if each.is_leader()), None))
        return found

    def woken() -> bool:
        """Now and then a poll is first."""
        first, known = leader(), len(seen.woken)
        eventually(lambda: seen.rare([election for election in fleet if election is not first]))
        assert len(seen.woken) == known
        first.stop()
        following = leader().get_instance_id()
        first.start()
        return following in seen.woken[known:]

    eventually(woken)


def test_one_of_many_looks_often_again_when_the_others_have_gone(fleet: list[LeaderElection], seen: Seen) -> None:
    for follower in fleet[2:]:
        follower.stop()

    def often() -> bool:
        first, second = seen.polls["b"][-2:]
        return second - first < 0.9 * RARE

    eventually(often)
    assert fleet[0].is_leader()
