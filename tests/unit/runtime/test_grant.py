"""What ``is_leader()`` reads: in forks, and while it is extended, in every order. Instants are invented."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from django_leader.exceptions import LeaderError
from django_leader.protocol import machine
from django_leader.protocol.config import Config
from django_leader.protocol.records import Answer
from django_leader.runtime import grant
from django_leader.runtime.candidacy import Candidacy
from django_leader.runtime.election import LeaderElection
from django_leader.runtime.grant import ENDED, NO_GRANT, Cell, DeadlineLink, Grant, PidCell, new_cell
from django_leader.runtime.listeners import Listeners
from django_leader.system import clock
from tests.support.interleaving import Turns, every_order

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

FIRST, SECOND, THIRD = 10.0, 20.0, 30.0
"""The deadlines."""


def leads(term: Grant, now: float) -> bool:
    """What ``LeaderElection.is_leader`` does."""
    if now < term.cell[0]:
        return True
    return term.cell[0] != 0.0 and term.left(now) > 0


def exit_code_of_child(fork: Callable[[], int], code: Callable[[], int]) -> int:
    pid = fork()
    if pid == 0:
        try:
            os._exit(code())
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["python", "C"])
@pytest.mark.parametrize("make", [new_cell, PidCell])
def test_s19_a_term_is_over_in_a_child_and_lasts_in_its_parent(
    make: Callable[[float], Cell], fork: Callable[[], int]
) -> None:
    term = Grant(1, make(FIRST))
    assert exit_code_of_child(fork, lambda: 1 if leads(term, 5.0) or term.left(5.0) else 42) == 42
    assert exit_code_of_child(fork, lambda: 1 if term.extend(SECOND) or leads(term, 5.0) else 42) == 42
    assert leads(term, 5.0)
    assert term.extend(SECOND)
    assert exit_code_of_child(fork, lambda: 1 if leads(term, 15.0) or term.left(15.0) else 42) == 42
    assert leads(term, 15.0)


@pytest.mark.parametrize("make", [new_cell, PidCell])
def test_s19_a_child_forked_amid_an_extension_does_not_lead(
    make: Callable[[float], Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler forks it."""
    term = Grant(1, make(FIRST))
    set_next_once = DeadlineLink.set_next_once

    def interrupted(self: DeadlineLink, link: DeadlineLink) -> DeadlineLink:
        found = set_next_once(self, link)
        pids.append(os.fork())
        return found

    pids: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(DeadlineLink, "set_next_once", interrupted)
        extended = term.extend(SECOND)
    if pids == [0]:
        os._exit(1 if extended or leads(term, 5.0) else 42)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 42
    assert extended
    assert leads(term, 15.0)


def test_where_pages_cannot_be_wiped_the_process_id_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grant, "_MADV_WIPEONFORK", 99999)
    assert isinstance(new_cell(FIRST), PidCell)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert isinstance(new_cell(FIRST), PidCell)


@pytest.mark.parametrize("make", [new_cell, PidCell])
def test_a_term_lasts_until_its_deadline_and_that_can_be_put_off(make: Callable[[float], Cell]) -> None:
    term = Grant(7, make(FIRST))
    assert (leads(term, 9.0), term.left(9.0)) == (True, 1.0)
    assert term.extend(FIRST)
    assert term.extend(SECOND)
    assert (leads(term, 11.0), term.left(11.0)) == (True, 9.0)
    assert term.token == 7


@pytest.mark.parametrize("ask", [leads, Grant.left])
def test_s04_who_sees_the_deadline_pass_ends_the_term(ask: Callable[[Grant, float], float]) -> None:
    term = Grant(1, new_cell(FIRST))
    assert not ask(term, FIRST)
    assert not ask(term, 5.0), "even if the clock went back"
    assert not term.extend(SECOND)
    assert not ask(term, 11.0)


def test_s03_a_term_that_was_ended_stays_so() -> None:
    term = Grant(1, new_cell(FIRST))
    term.end("resigned")
    assert term.reason == "resigned"
    assert not leads(term, 5.0)
    assert not term.extend(SECOND)
    assert not leads(term, 5.0)
    assert term.left(5.0) == 0.0


def test_what_was_no_term_cannot_be_extended() -> None:
    assert not leads(NO_GRANT, 0.0)
    assert not NO_GRANT.extend(SECOND)
    assert not leads(NO_GRANT, 0.0)
    assert ENDED.set_next_once(DeadlineLink(SECOND)) is ENDED


class Play:
    """A term in which everything that a reader and the writer do to it is a step, and what was answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        def step_and_follow(link: DeadlineLink, following: DeadlineLink) -> DeadlineLink:
            self.turns.step()
            return set_next_once(link, following)

        self.turns, set_next_once = Turns(), DeadlineLink.set_next_once
        patch.setattr(DeadlineLink, "set_next_once", step_and_follow)
        self.now, self.refused, self.extended = 0.0, False, False
        self.term = Watched(self.turns)

    def reader(self, *instants: float) -> Callable[[], None]:
        def read() -> None:
            for instant in instants:
                self.now, refused = max(self.now, instant), self.refused
                answer = leads(self.term, self.now)
                assert not (refused and answer), "once false, always false"
                self.refused = self.refused or not answer

        return read

    def write(self) -> None:
        self.extended = self.term.extend(SECOND)

    def run(self, functions: Sequence[Callable[[], None]], order: Sequence[int]) -> list[tuple[int, int]]:
        self.now, self.refused, self.term = 0.0, False, Watched(self.turns)
        chosen = self.turns.run(functions, order)
        lasts = leads(self.term, self.now)
        assert not (self.refused and lasts), "once false, always false"
        assert self.extended or not lasts, "what the machine takes for ended has ended"
        assert self.term.extend(THIRD) is lasts, "the machine hears of it"
        assert leads(self.term, self.now) is lasts
        return chosen


class Watched(Grant):
    __slots__ = ("_turns", "_where")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        super().__init__(1, WatchedCell(turns))

    @property
    def _last(self) -> DeadlineLink:
        return self._where

    @_last.setter
    def _last(self, link: DeadlineLink) -> None:
        self._turns.step()
        self._where = link


class WatchedCell:
    def __init__(self, turns: Turns) -> None:
        self._turns, self._deadline = turns, FIRST

    def __getitem__(self, index: int) -> float:
        self._turns.step()
        return self._deadline

    def __setitem__(self, index: int, deadline: float) -> None:
        self._turns.step()
        self._deadline = deadline


@pytest.mark.parametrize(
    ("instants", "outcomes"),
    [((11.0, 11.0), {(True, False), (False, True)}), ((21.0,), {(True, False), (True, True)})],
)
def test_s04_a_reader_and_an_extension_in_every_order(
    monkeypatch: pytest.MonkeyPatch, instants: tuple[float, ...], outcomes: set[tuple[bool, bool]]
) -> None:
    play = Play(monkeypatch)
    seen = set()
    for _ in every_order(lambda order: play.run([play.reader(*instants), play.write], order)):
        seen.add((play.refused, play.extended))
    assert seen == outcomes


@settings(max_examples=300)
@given(order=st.lists(st.integers(0, 2), max_size=40), first=st.sampled_from([9.0, 11.0, 21.0]))
def test_s04_two_readers_and_an_extension_in_many_orders(order: list[int], first: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        play = Play(patch)
        play.run([play.reader(first, 21.0), play.write, play.reader(11.0, 11.0)], order)


def test_s04_a_signal_handler_that_looks_amid_an_extension_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_next_once = DeadlineLink.set_next_once
    seen: list[bool] = []

    def interrupted(self: DeadlineLink, link: DeadlineLink) -> DeadlineLink:
        if link is not ENDED and instant:
            seen.append(leads(term, instant.pop()))
        return set_next_once(self, link)

    monkeypatch.setattr(DeadlineLink, "set_next_once", interrupted)
    term, instant = Grant(1, new_cell(FIRST)), [9.0]
    assert term.extend(SECOND)
    instant = [21.0]
    assert not term.extend(THIRD)
    assert seen == [True, False]
    assert not leads(term, 21.0)


def test_s03_an_extension_that_an_exception_cuts_short_ends_the_term_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: DeadlineLink, link: DeadlineLink) -> DeadlineLink:
        set_next_once(self, link)
        raise KeyboardInterrupt

    set_next_once, term = DeadlineLink.set_next_once, Grant(1, new_cell(FIRST))
    with monkeypatch.context() as patch:
        patch.setattr(DeadlineLink, "set_next_once", interrupted)
        with pytest.raises(KeyboardInterrupt):
            term.extend(SECOND)
    assert leads(term, 9.0)
    assert not term.extend(THIRD)
    assert not leads(term, 9.0)


def answer(verdict: str) -> Answer:
    return Answer(verdict, 1, "me:0", 10.0, 1, "", 0.0, verdict, 10.0)


def test_s04_a_renewal_after_a_seen_deadline_ends_the_term(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A caller sees the deadline pass while the renewal is being accepted."""

    def step(state: machine.State, event: machine.AnyEvent, now: float, timing: object) -> machine.State:
        after: machine.State = real(state, event, now, timing)  # type: ignore[arg-type]
        if isinstance(event, machine.Renewed):
            assert not leads(published[0], published[0].cell[0])
        return after

    real = machine.step
    monkeypatch.setattr(machine, "step", step)
    published: list[Grant] = []
    candidacy = Candidacy(
        lambda timeout: pytest.fail("no Redis"), Config().validate(), "test", Listeners(lambda: None), published.append
    )
    candidacy.feed(machine.Campaigned(clock.now(), answer("granted"), 0.0))
    assert leads(published[0], clock.now())
    candidacy.feed(machine.Renewed(clock.now(), answer("renewed")))
    assert not leads(published[0], clock.now())
    assert candidacy.shared.state.term is None
    assert candidacy.shared.state.unrecorded_end == (1, "expired")
    candidacy.close()


def test_s04_token_and_deadline_are_of_one_term_whatever_overrides_them_meanwhile() -> None:
    election = LeaderElection(redis.Redis())
    candidacy = election._begin()
    assert candidacy
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (False, None, 0.0)
    election.override(Grant(7, [float("inf")]))
    candidacy.feed(machine.Campaigned(clock.now(), answer("granted"), 0.0))
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (True, 7, float("inf"))
    election.override(NO_GRANT)
    candidacy.feed(machine.Renewed(clock.now(), answer("renewed")))
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (False, None, 0.0)
    election.override(None)
    assert (election.is_leader(), election.fencing_token) == (True, 1)
    candidacy.feed(machine.Stop())
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (False, None, 0.0)
    following = election._begin()
    assert following
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (False, None, 0.0)
    candidacy.close()
    following.close()


def test_an_override_that_begins_while_the_election_starts_counts() -> None:
    election = LeaderElection(redis.Redis())
    overriding = threading.Thread(target=election.override, args=[Grant(7, [float("inf")])])

    def handle_exit() -> None:
        overriding.start()
        overriding.join(0.2)  # long enough for it to end here, unless it waits for the start as it should

    election.handle_exit = handle_exit  # type: ignore[method-assign]
    candidacy = election._begin()
    overriding.join()
    assert election.fencing_token == 7
    assert candidacy
    candidacy.close()


def test_an_election_that_is_overridden_says_so_instead_of_being_a_candidate() -> None:
    election = LeaderElection(redis.Redis())
    election.override(NO_GRANT)
    election.start()
    assert not election.running
    with pytest.raises(LeaderError, match="a test overrides this election"):
        election.run()


def test_a_wait_for_a_term_that_was_ended_before_returns_at_once() -> None:
    term = Grant(1, new_cell(FIRST))
    term.end("resigned")
    term.wait(1000.0)
    assert term._waiting == []
