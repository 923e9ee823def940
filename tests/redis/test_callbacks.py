"""Callbacks of an election on a real server: their order, and what happens while they run or fail."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import redis

from django_leader.system import clock
from tests.redis.conftest import FAST, Make
from tests.support.servers import GENEROUS, RedisServer, eventually


def test_s16_loss_callbacks_return_before_the_next_gain(make: Make) -> None:
    election, log = make(), []
    hold = threading.Event()

    @election.on_become_leader
    def gained() -> None:
        log.append("gain")

    @election.on_lose_leadership
    def lost() -> None:
        log.append("loss")
        assert hold.wait(GENEROUS)
        log.append("loss over")

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.resign()
    eventually(lambda: "loss" in log)
    start = clock.now()
    eventually(lambda: clock.now() > start + 3 * FAST["retry_interval"])
    assert log == ["gain", "loss"]
    hold.set()
    eventually(lambda: len(log) == 4)
    assert log == ["gain", "loss", "loss over", "gain"]


def test_a_new_candidacy_waits_for_the_loss_callbacks_of_the_last(make: Make) -> None:
    election, hold = make(), threading.Event()
    election.on_lose_leadership(lambda: hold.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop(timeout=0.05)
    election.stop()
    election.start()
    assert election.wait_for_leadership(0) is False
    hold.set()
    assert election.wait_for_leadership(GENEROUS)


def test_s16_a_new_candidacy_knows_the_term_that_the_last_is_ending(make: Make) -> None:
    """A signal handler asks the last one to end it: that may not have come to it yet."""
    election, told, again = make(lock_ttl=1.0), list[str](), threading.Event()

    @election.on_become_leader
    def gained() -> None:
        told.append("gain")
        if len(told) > 1:
            again.set()

    @election.on_lose_leadership
    def lost() -> None:
        again.wait(2.0)  # in which the lease runs out
        told.append("loss")

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: told)
    election.ask_to_stop()
    election.start()
    eventually(lambda: len(told) == 3)
    assert told == ["gain", "loss", "gain"]


def test_a_lone_candidate_whose_callback_fails_stands_back(make: Make, some_server: RedisServer) -> None:
    election = make()
    gains: list[float] = []

    @election.on_become_leader
    def fails() -> None:
        gains.append(clock.now())
        raise RuntimeError("the scheduler does not start")

    election.start()
    eventually(lambda: len(gains) == 4)
    pauses = [later - earlier for earlier, later in itertools.pairwise(gains)]
    for pause, least in zip(pauses, (0.3, 0.6, 1.2), strict=True):
        assert pause > least * 0.9


def test_while_redis_refuses_and_loss_callbacks_run_nothing_spins(make: Make, own_server: RedisServer) -> None:
    election, hold = make(redis.Redis(port=own_server.port)), threading.Event()
    election.on_lose_leadership(lambda: hold.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    connects: list[float] = []
    real = candidacy._worker.lease.channel._connect

    def connect(timeout: float) -> Any:
        connects.append(timeout)
        return real(timeout)

    candidacy._worker.lease.channel._connect = connect
    own_server.stop()
    election.resign()
    start = clock.now()
    eventually(lambda: clock.now() > start + 0.5)
    assert len(connects) <= 5
    hold.set()
