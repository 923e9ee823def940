"""A term as its work sees it: over once, over for good, and never mistaken for a later one. Instants are invented."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from django_leader import LeaderElection, LeadershipLost, Term
from django_leader.runtime.grant import NO_GRANT, Cell, Grant, PidCell, new_cell
from django_leader.system import clock
from tests.support.servers import GENEROUS, eventually
from tests.unit.runtime.test_grant import exit_code_of_child

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
LATE = 1000.0
"""Seconds that no test takes."""


def lasting(token: int = 7, seconds: float = LATE, make: Callable[[float], Cell] = new_cell) -> Grant:
    return Grant(token, make(clock.now() + seconds))


@pytest.fixture
def election() -> LeaderElection:
    return LeaderElection(redis.Redis(port=1), name="reports")


@pytest.fixture
def woken_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait does not look again by itself, so what ends it has woken it."""
    monkeypatch.setattr("django_leader.runtime.term.LONGEST_UNCHECKED", LATE)


@pytest.fixture
def waiting(woken_only: None) -> Iterator[Callable[[Term], Callable[[], bool | None]]]:
    """Starts a thread that waits for the end of a term, and returns what tells how its wait has ended."""
    threads = []

    def start(term: Term) -> Callable[[], bool | None]:
        ended: list[bool] = []
        threads.append(threading.Thread(target=lambda: ended.append(term.lost.wait(LATE)), daemon=True))
        threads[-1].start()
        eventually(lambda: term._grant._waiting, "it waits")
        return lambda: ended[0] if ended else None

    yield start
    for thread in threads:
        thread.join(GENEROUS)
        assert not thread.is_alive()


def test_there_is_none_while_the_process_does_not_lead(election: LeaderElection) -> None:
    assert election.term() is None
    election._publish(grant := lasting())
    assert election.term() is not None
    grant.end("resigned")
    assert election.term() is None


def test_a_term_says_what_the_election_says(election: LeaderElection) -> None:
    election._publish(lasting(token=7))
    term = election.term()
    assert term
    assert (term.token, term.is_current(), term.lost.is_set()) == (7, True, False)
    assert 0 < term.lease_left <= LATE
    term.raise_if_lost()
    assert repr(term) == "<Term 7 of LEADER_ELECTIONS['reports'], current>"


def test_s04_a_later_term_of_the_same_process_is_another_one(election: LeaderElection) -> None:
    election._publish(first := lasting(token=7))
    term = election.term()
    first.end("resigned")
    election._publish(lasting(token=8))
    assert election.is_leader()
    assert term
    assert (term.is_current(), term.lease_left, term.lost.is_set(), term.token) == (False, 0.0, True, 7)
    assert term.lost.wait(LATE)
    with pytest.raises(LeadershipLost) as error:
        term.raise_if_lost()
    text = (
        "LEADER_ELECTIONS['reports']: the term with token 7 is over (reason: resigned), and another process may lead."
    )
    assert str(error.value) == f"{text} Write nothing more, and end this work"
    assert repr(term) == "<Term 7 of LEADER_ELECTIONS['reports'], over>"


def test_s04_a_term_whose_deadline_has_passed_stays_over(
    election: LeaderElection, monkeypatch: pytest.MonkeyPatch
) -> None:
    election._publish(lasting())
    term = election.term()
    assert term
    now = clock.now
    with monkeypatch.context() as patch:
        patch.setattr("django_leader.runtime.term.clock_gettime", lambda _: now() + 2 * LATE)
        assert not term.is_current()
    assert not term.is_current(), "the clock is back, the term is not"
    with pytest.raises(LeadershipLost, match=r"token 7 is over, and"):
        term.raise_if_lost()


def test_a_renewal_keeps_it(election: LeaderElection) -> None:
    election._publish(grant := lasting(seconds=0.05))
    term = election.term()
    assert term
    assert grant.extend(clock.now() + LATE)
    assert term.lost.wait(0.1) is False, "the first deadline is over, the term is not"
    assert term.is_current()


def test_a_wait_ends_with_the_deadline_of_which_no_thread_tells(election: LeaderElection) -> None:
    election._publish(lasting(seconds=0.05))
    term = election.term()
    assert term
    assert term.lost.wait(LATE) is True
    assert not election.is_leader()


def test_a_wait_without_limit_ends_when_the_term_is_ended(
    election: LeaderElection, waiting: Callable[[Term], Callable[[], bool | None]]
) -> None:
    election._publish(grant := lasting())
    term = election.term()
    assert term
    ended = [waiting(term) for _ in range(3)]
    assert [end() for end in ended] == [None] * 3
    grant.end("expired")
    eventually(lambda: [end() for end in ended] == [True] * 3)
    assert grant._waiting == []


def test_a_signal_handler_may_end_the_term_whose_wait_it_interrupts(election: LeaderElection, woken_only: None) -> None:
    """An event of ``threading`` might be locked by the very thread that the handler has interrupted."""
    election._publish(grant := lasting())
    term = election.term()
    assert term
    before = signal.signal(signal.SIGALRM, lambda *_: grant.end("resigned"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert term.lost.wait(GENEROUS) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["python", "C"])
@pytest.mark.parametrize("make", [new_cell, PidCell])
def test_s19_it_is_over_in_a_child_and_lasts_in_its_parent(
    election: LeaderElection, make: Callable[[float], Cell], fork: Callable[[], int]
) -> None:
    election._publish(lasting(make=make))
    term = election.term()
    assert term
    assert exit_code_of_child(fork, lambda: 42 if term.lost.wait(LATE) and not term.is_current() else 1) == 42
    assert exit_code_of_child(fork, lambda: 1 if election.term() else 42) == 42
    assert term.is_current()


def test_what_a_test_has_said_ends_with_what_it_says_next(
    election: LeaderElection, waiting: Callable[[Term], Callable[[], bool | None]]
) -> None:
    """As ``following()`` within ``leading()`` does."""
    election.override(outer := Grant(1, new_cell(float("inf"))))
    term = election.term()
    assert term
    ended = waiting(term)
    election.override(NO_GRANT)
    eventually(lambda: ended() is True)
    assert election.term() is None
    election.override(outer)
    assert not term.is_current(), "it was over before"
    assert (again := election.term())
    assert again.is_current()
    election.override(None)
    assert not again.is_current()
