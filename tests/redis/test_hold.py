"""A release that holds, with whole elections, while the server's clock is set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.protocol.expiry import ExpiryProof
from django_leader.protocol.hold import Clocks
from django_leader.runtime import worker
from django_leader.system import clock
from django_leader.system.pidfd import clocks
from tests.support.servers import GENEROUS, RedisServer, eventually

OPTIONS: dict[str, Any] = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
HOLD = 1.5
LONG = 30.0
"""A hold that is over in no test."""
STEP = 60_000
"""Milliseconds, more than any hold lasts."""
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


def held(make: Make, hold: float = LONG) -> float:
    """Leads, and lets go with a hold; the instant before that."""
    leader = make()
    assert leader.wait_for_leadership(GENEROUS)
    at = clock.now()
    leader.stop(hold=hold)
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
    assert 0 < newcomer.hold_left <= LONG


@pytest.mark.parametrize("step", [STEP, -STEP, 0])
def test_s12_who_comes_while_a_hold_goes_on_leads_when_it_is_over(
    make: Make, some_server: RedisServer, step: int
) -> None:
    at = held(make, HOLD)
    step_clock(some_server, step)
    newcomer = make()
    assert newcomer.wait_for_leadership(GENEROUS)
    assert clock.now() - at > HOLD
    assert newcomer.hold_left == 0


def test_s08_a_hold_is_kept_though_the_servers_clock_was_set(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was set after the last heartbeat."""
    leader = make()
    assert leader.wait_for_leadership(GENEROUS)
    monkeypatch.setattr(
        ExpiryProof, "server_time", lambda self, at, *, upper: 1.0
    )  # so the server is far ahead of that
    leader.stop(hold=LONG)
    monkeypatch.undo()
    newcomer = make()
    assert not newcomer.wait_for_leadership(0)
    assert newcomer.hold_left > OPTIONS["lock_ttl"], "and it is no lease that nobody has given back"


@pytest.mark.parametrize("step", [STEP, -STEP, 0])
def test_s12_who_comes_when_a_hold_is_over_leads_in_its_first_attempt(
    make: Make, some_server: RedisServer, step: int
) -> None:
    at = held(make, HOLD)
    step_clock(some_server, step)
    eventually(lambda: clock.now() > at + HOLD + 0.5)
    assert make().wait_for_leadership(0)


def on_another_host(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """From here on this process runs on a host whose wall clock is ``ahead`` by so many seconds."""

    def elsewhere() -> Clocks:
        here = clocks()
        return Clocks("0" * 36, here.at, here.wall + ahead)

    monkeypatch.setattr(worker, "clocks", elsewhere)


@pytest.mark.parametrize(("step", "ahead"), [(STEP, 0), (STEP, -0.5), (0, 3600)])
def test_s12_one_clock_that_was_set_does_not_end_a_hold_elsewhere(
    make: Make, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, step: int, ahead: float
) -> None:
    """The newcomer is on another host than the former leader."""
    held(make)
    step_clock(some_server, step)
    on_another_host(monkeypatch, ahead)
    assert not make().wait_for_leadership(0)


def test_s12_on_another_host_a_hold_that_is_over_keeps_nobody_waiting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = held(make, HOLD)
    eventually(lambda: clock.now() > at + HOLD + 0.5)
    on_another_host(monkeypatch, 0.0)
    assert make().wait_for_leadership(0)


def test_a_long_hold_without_clocks_is_watched_to_its_end(make: Make, some_server: RedisServer) -> None:
    """It is longer than a lease: the first attempt of a newcomer may take longer than any state that it would set
    itself.
    """
    held(make, HOLD)
    client: Any = some_server.client()
    keys = Config().keys
    client.hset(keys.state, mapping={"process": "", "duration": 3000, "until": 1})
    client.delete(keys.lock)
    at = clock.now()
    assert make(lock_ttl=1.5, heartbeat_interval=0.1, retry_interval=0.1).wait_for_leadership(0)
    assert clock.now() - at > 3.0


def test_s12_a_newcomer_watches_a_lease_prolonged_by_a_clock_set_back(make: Make, some_server: RedisServer) -> None:
    """Its holder is gone, and the server says that a day is left of it."""
    leader = make()
    assert leader.wait_for_leadership(GENEROUS)
    leader.stop(hold=HOLD)
    client: Any = some_server.client()
    keys = Config().keys
    client.hset(keys.state, mapping={"kind": "lease", "process": "", "duration": 1000})
    client.hincrby(keys.state, "until", 86_400_000)
    assert make().wait_for_leadership(0)


def test_an_attempt_ends_though_what_it_watches_is_replaced_again_and_again(
    make: Make, some_server: RedisServer
) -> None:
    """As by a replica that joins again and again."""
    client, over = some_server.client(), threading.Event()

    def replaces() -> None:
        while not over.wait(0.05):
            client.flushall()

    thread = threading.Thread(target=replaces)
    thread.start()
    try:
        found: list[bool] = []
        election = make(lock_ttl=0.5, heartbeat_interval=0.1, retry_interval=0.1, quarantine=0.5)
        waits = threading.Thread(target=lambda: found.append(election.wait_for_leadership(0)))
        waits.start()
        waits.join(GENEROUS)
        assert found == [False]
    finally:
        over.set()
        thread.join()
        waits.join()
