"""A release that holds, with whole elections, while the server's clock is set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection, actions, clock
from django_leader.hold import Clocks
from django_leader.process import clocks
from tests.support.servers import GENEROUS, RedisServer, eventually

OPTIONS: dict[str, Any] = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
HOLD = 1.5
STEP = 10_000
"""Milliseconds, more than the hold lasts."""
Make = Callable[..., LeaderElection]


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    made: list[LeaderElection] = []

    def make(**options: float) -> LeaderElection:
        made.append(LeaderElection(redis.Redis(port=some_server.port), Config(**OPTIONS | options)))
        made[-1].start()
        return made[-1]

    yield make
    for election in made:
        election.stop()


def held(make: Make) -> float:
    """Leads, and lets go with a hold; the instant before that."""
    leader = make()
    assert leader.wait_for_leadership(GENEROUS)
    at = clock.now()
    leader.stop(hold=HOLD)
    return at


def step_clock(server: RedisServer, milliseconds: int) -> None:
    """What a step of the server's clock does to the end of the state, which it compares with its clock."""
    server.client().hincrby(Config().keys.state, "until", -milliseconds)


@pytest.mark.parametrize("step", [STEP, -STEP, 0])
def test_s12_a_hold_ends_for_who_was_there_as_it_was_meant(make: Make, some_server: RedisServer, step: int) -> None:
    leader = make()
    assert leader.wait_for_leadership(GENEROUS)
    follower = make()
    assert not follower.wait_for_leadership(0)
    at = clock.now()
    leader.stop(hold=HOLD)
    step_clock(some_server, step)
    assert follower.wait_for_leadership(GENEROUS)
    assert clock.now() - at > HOLD


@pytest.mark.parametrize("step", [STEP, -STEP, 0])
def test_s12_who_comes_while_a_hold_goes_on_is_turned_down_at_once(
    make: Make, some_server: RedisServer, step: int
) -> None:
    held(make)
    step_clock(some_server, step)
    newcomer = make()
    assert not newcomer.wait_for_leadership(0)
    assert 0 < newcomer.hold_left <= HOLD
    assert newcomer.wait_for_leadership(GENEROUS), "and leads when it is over"
    assert newcomer.hold_left == 0


@pytest.mark.parametrize("step", [STEP, -STEP, 0])
def test_s12_who_comes_when_a_hold_is_over_leads_in_its_first_attempt(
    make: Make, some_server: RedisServer, step: int
) -> None:
    at = held(make)
    step_clock(some_server, step)
    eventually(lambda: clock.now() > at + HOLD + 0.5)
    assert make().wait_for_leadership(0)


def on_another_host(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """From here on this process runs on a host whose wall clock is ``ahead`` by so many seconds."""

    def elsewhere() -> Clocks:
        here = clocks()
        return Clocks("0" * 36, here.at, here.wall + ahead)

    monkeypatch.setattr(actions, "clocks", elsewhere)


@pytest.mark.parametrize(("step", "ahead"), [(STEP, 0), (STEP, -0.5), (0, 3600)])
def test_s12_on_another_host_one_clock_that_was_set_does_not_end_a_hold(
    make: Make, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, step: int, ahead: float
) -> None:
    held(make)
    step_clock(some_server, step)
    on_another_host(monkeypatch, ahead)
    assert not make().wait_for_leadership(0)


def test_s12_on_another_host_a_hold_that_is_over_keeps_nobody_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = held(make)
    eventually(lambda: clock.now() > at + HOLD + 0.5)
    on_another_host(monkeypatch, 0.0)
    assert make().wait_for_leadership(0)


def test_a_hold_without_clocks_that_is_longer_than_a_lease_is_watched_to_its_end(
    make: Make, some_server: RedisServer
) -> None:
    """The first attempt of a newcomer may take longer than any state that it would set itself."""
    held(make)
    client: Any = some_server.client()
    keys = Config().keys
    client.hset(keys.state, mapping={"process": "", "span": 3000, "until": 1})
    client.delete(keys.lock)
    at = clock.now()
    assert make(lock_ttl=0.5, heartbeat_interval=0.1, retry_interval=0.1).wait_for_leadership(0)
    assert clock.now() - at > 3.0
