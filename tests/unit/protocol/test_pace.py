"""How long a follower waits until it polls again, in invented time."""

from __future__ import annotations

import itertools
import random

import pytest

from django_leader.protocol.config import Config, Timing
from django_leader.protocol.machine import Campaigned, Failed, Plan, State, plan, preconditions, step
from django_leader.protocol.pace import FULL_RATE_CANDIDATES, usual
from django_leader.protocol.records import Answer

TIMING = Config().validate().timing  # 10 s lease, 3 s heartbeat, 2 s retry, 0.2 s margin
RARE = 0.9 * (10 - 3)


def polled(
    state: State,
    at: float,
    renewed_at: float,
    candidates: int = 1000,
    *,
    jitter: float = 0.999999,
    took: float = 0.0,
    holder: str = "other:1",
) -> State:
    """Sees at the instant ``at`` a lease that was renewed at ``renewed_at``; the server has our clock."""
    answer = Answer("held", 1, holder, renewed_at + 10 - at, candidates, "", at, f"{holder} {renewed_at}", 10.0)
    return step(state, Campaigned(at - took, answer, jitter), at + took, TIMING)


def settled(candidates: int = 1000) -> State:
    """A follower that has come at 96, polled at 98 and at 102, and will at 108.3."""
    state = State()
    for at, renewed_at in ((96.0, 95.5), (98.0, 97.5), (102.0, 101.5)):
        state = polled(state, at, renewed_at, candidates)
    return state


@pytest.mark.parametrize(
    ("timing", "candidates", "seconds"),
    [
        (TIMING, 2, 2.0),
        (TIMING, 32, 2.0),
        (TIMING, 64, 4.0),
        (TIMING, 1000, RARE),
        (Config(lock_ttl=60, heartbeat_interval=10, retry_interval=2).validate().timing, 1000, 8.0),
        (Config(lock_ttl=10, heartbeat_interval=3, retry_interval=30).validate().timing, 1000, 30.0),
    ],
)
def test_of_many_candidates_each_looks_more_rarely(timing: Timing, candidates: int, seconds: float) -> None:
    assert usual(candidates, timing) == pytest.approx(seconds)
    if seconds > timing.retry:
        assert seconds / timing.retry <= candidates / FULL_RATE_CANDIDATES, "together they poll as often as so many"
        assert seconds < timing.ttl - timing.heartbeat, "and before the end of the lease that each has seen"


def test_a_newcomer_polls_often_and_then_more_and_more_rarely() -> None:
    """At first as one of a few candidates does."""
    state = polled(State(), 96.0, 95.5)
    assert state.next_at == pytest.approx(98.0), "it cannot tell yet when the lease is over"
    state = polled(state, 98.0, 97.5)
    assert state.next_at == pytest.approx(102.0)
    state = polled(state, 102.0, 102.0)
    assert state.next_at == pytest.approx(102.0 + RARE), "also if it was renewed in that very millisecond"
    assert polled(state, state.next_at, 107.5, jitter=0.0).next_at == pytest.approx(102.0 + 2 * RARE), "it stays so"
    assert settled(candidates=3).next_at == pytest.approx(104.0)


def test_who_sees_a_lease_that_is_not_renewed_looks_often() -> None:
    state = polled(settled(), 108.3, 104.5)
    assert state.next_at == pytest.approx(110.3), "it should have been renewed"
    state = polled(state, 110.3, 110.2)
    assert state.next_at == pytest.approx(114.3), "and was"


def test_who_was_woken_in_vain_or_could_not_ask_looks_often() -> None:
    state = step(settled(), Failed(0.0), 103.0, TIMING)
    assert polled(state, 104.0, 103.9, jitter=0.0).next_at == pytest.approx(106.0)


def test_s12_rare_polls_prove_the_end_of_a_newer_lease() -> None:
    """One that was set since the last poll."""
    state = polled(settled(), 108.3, 104.5)
    state = polled(state, 113.0, 104.5, jitter=0.0)
    assert state.next_at == pytest.approx(114.501), "when it ends, not a whole lease after it was seen"
    assert preconditions(state, 114.49, TIMING).expired_version == ""
    assert preconditions(state, state.next_at, TIMING).expired_version == "other:1 104.5"
    assert plan(state, state.next_at) == Plan("campaign")


def test_s12_the_proof_survives_that_the_crowd_has_gone() -> None:
    state = polled(settled(), 108.3, 104.5, candidates=3)
    assert preconditions(state, 114.49, TIMING).expired_version == ""
    assert preconditions(state, 114.51, TIMING).expired_version, (
        "the long pause was planned, and says nothing against the clock"
    )


def test_a_follower_that_cannot_trust_the_servers_clock_polls_often() -> None:
    """Although it sees the lease renewed."""
    state = State()
    for at, renewed_at in ((96.0, 95.5), (98.0, 97.5), (100.0, 99.5), (102.0, 101.5)):
        state = polled(state, at, renewed_at, took=0.12)
        assert not state.watch.steady
        assert state.next_at == pytest.approx(at - 0.12 + 2.0), "the way there takes too long for a proof"


def test_followers_that_poll_together_once_do_not_stay_together() -> None:
    """All have polled at the end of a lease; jitter spreads them again."""
    chances = random.Random(1)
    states = []
    for _ in range(200):
        state = polled(settled(), 108.3, 108.0)  # and then it died
        state = polled(state, state.next_at, 108.0)
        while plan(state, state.next_at).act == "poll":
            state = polled(state, state.next_at, 108.0)
        states.append(polled(state, state.next_at, state.next_at - 0.001, jitter=chances.random(), holder="next:1"))
    assert max(state.next_at for state in states) - min(state.next_at for state in states) < 2.1
    for number in range(2):
        states = [
            polled(state, state.next_at, state.next_at - 0.5 - number / 10, jitter=chances.random(), holder="next:1")
            for state in states
        ]
    due = sorted(state.next_at % RARE for state in states)
    assert max(after - before for before, after in itertools.pairwise(due)) < 1.0
    assert due[-1] - due[0] > RARE / 2, "some poll while the others wait"
