"""A leader whose heartbeats come late says why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from django_leader.system import starvation
from django_leader.system.clock import now
from tests.conftest import need
from tests.support.candidates import Candidate
from tests.support.servers import GENEROUS, RedisServer, eventually

STALL = 2.0
"""Seconds for which a process is stopped: ten times what makes a heartbeat of these late."""


@pytest.fixture
def lead(some_server: RedisServer) -> Iterator[Callable[..., Candidate]]:
    """Makes a leader whose lease outlasts every stall, and ends it."""
    need(starvation.read_counts(late=False), "a kernel that counts how its threads wait")
    made: list[Candidate] = []

    def make(**options: Any) -> Candidate:
        made.append(Candidate(some_server.port, lock_ttl=60.0, heartbeat_interval=0.4, quarantine=0, **options))
        made[-1].hears("gain")
        granted = deadline(made[-1])
        eventually(lambda: deadline(made[-1]) > granted + 0.1, "it renews, and rests for most of the time")
        return made[-1]

    yield make
    for process in made:
        process.close()


Lead = Callable[..., Candidate]
gevent = pytest.mark.skipif(not find_spec("gevent"), reason="gevent is not installed")


def deadline(leader: Candidate) -> float:
    verdict = leader.verdict()
    return float(verdict["at"] + verdict["left"])


def told(leader: Candidate, cause: str, stall: Callable[[], None]) -> str:
    """The warning that gives this cause, of a stall that is repeated until it has met the leader at rest."""
    words, until = starvation.ADVICE[cause].partition("{")[0], now() + 4 * GENEROUS

    def found() -> str:
        return next((text for text in warnings(leader) if words in text), "")

    while not found():
        assert now() < until, f"{cause} is not told of: {leader.unheard}"
        stall()
        with contextlib.suppress(AssertionError):
            eventually(found, timeout=2 * STALL)
    return found()


def warnings(leader: Candidate) -> list[str]:
    return [said["text"] for said in leader.pending() if said["event"] == "log" and said["level"] == "WARNING"]


def stop_for_a_while(leader: Candidate) -> None:
    began = now()
    leader.freeze()
    eventually(lambda: now() > began + STALL)
    leader.thaw()


def test_a_leader_that_was_stopped(lead: Lead) -> None:
    leader = lead()
    text = told(leader, "stopped", lambda: stop_for_a_while(leader))
    assert text.startswith("LEADER_ELECTIONS['default']: a heartbeat is ")


def test_a_call_that_keeps_the_gil_is_named(lead: Lead) -> None:
    leader = lead()
    text = told(leader, "call", lambda: leader.tell("keep the GIL"))
    assert "thread 'MainThread'" in text
    assert "keep_the_gil in " in text


def test_a_call_that_waits_and_keeps_the_gil(lead: Lead) -> None:
    leader = lead()
    told(leader, "asleep", lambda: leader.tell("keep the GIL asleep"))


def test_many_threads_that_compute(lead: Lead) -> None:
    leader = lead()
    told(leader, "threads", lambda: leader.tell("compute in threads"))


@gevent
def test_a_greenlet_that_computes(lead: Lead) -> None:
    leader = lead(program="tests.support.gevent_process")
    told(leader, "greenlet", lambda: leader.tell("compute"))


@gevent
def test_a_greenlet_that_waits_in_a_call_that_gevent_does_not_know(lead: Lead) -> None:
    leader = lead(program="tests.support.gevent_process")
    told(leader, "blocked", lambda: leader.tell("keep the GIL asleep"))


def test_a_cause_is_told_once_a_term(lead: Lead) -> None:
    leader = lead()
    told(leader, "stopped", lambda: stop_for_a_while(leader))
    stop_for_a_while(leader)
    told(leader, "asleep", lambda: leader.tell("keep the GIL asleep"))
    assert len([text for text in warnings(leader) if starvation.ADVICE["stopped"] in text]) == 1
