"""SIGTERM where no real process shows it. The others are in tests/process/test_stop.py."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from django_leader import LeadershipLost
from django_leader.system import interruption
from django_leader.system import sigterm as module
from django_leader.system.interruption import here
from django_leader.system.sigterm import Sigterm
from django_leader.system.wakeup import Wakeup
from tests.support.servers import GENEROUS


@pytest.fixture(autouse=True)
def no_wakeup(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody reads Python's wake-up descriptor: neither these, whose threads would be left, nor an earlier test's."""
    monkeypatch.setattr(Wakeup, "start", lambda wakeup: None)
    before = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(before, warn_on_full_buffer=False)


@pytest.fixture(autouse=True)
def no_thread_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thread that waits for a minute would call ``time.sleep`` in a later test, or count as one of its own."""
    over, running = threading.Event(), []
    start = _thread.start_new_thread

    def start_one_that_is_awaited(function: Callable[..., object], args: tuple[Any, ...]) -> int:
        ended = threading.Event()
        running.append(ended)

        def run() -> None:
            try:
                function(*args)
            finally:
                ended.set()

        return start(run, ())

    monkeypatch.setattr(module, "_thread", SimpleNamespace(start_new_thread=start_one_that_is_awaited))
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=over.wait))
    yield
    over.set()
    assert all(thread.wait(GENEROUS) for thread in running)


def test_where_no_signal_can_be_handled_an_election_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sub-interpreter, as Apache's mod_wsgi makes them."""

    def refuse(*args: Any) -> None:
        raise ValueError("signal only works in main thread of the main interpreter")

    sigterm = Sigterm(ask=lambda: None, busy=lambda: False, here=lambda: False)
    with monkeypatch.context() as here:
        here.setattr(signal, "signal", refuse)
        sigterm.chain()
        sigterm.after_fork()


def test_nothing_of_ours_keeps_the_handler_of_before_from_being_called() -> None:
    def broken() -> None:
        raise RuntimeError("set changed size during iteration")

    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        Sigterm(ask=broken, busy=lambda: True, here=lambda: False).chain()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]


def test_a_second_signal_ends_the_process_while_the_first_still_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def ask() -> None:
        seen.append("asks")
        if len(seen) == 1:
            signal.raise_signal(signal.SIGTERM)
            seen.append("goes on")

    monkeypatch.setattr(module, "_end", lambda: seen.append("ends"))
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        sigterm = Sigterm(ask=ask, busy=lambda: True, here=lambda: False)
        sigterm.chain()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen[:4] == ["asks", "asks", "ends", "goes on"], "the second one does not wait"


class Reload(Exception):
    """What a handler may raise into the loop of its program, which goes on with it."""


@pytest.mark.parametrize("error", [None, Reload])
def test_a_process_that_its_own_handler_keeps_is_a_candidate_again(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    """Much later than one without a handler, because servers handle SIGTERM, and end when they have served."""
    slept: list[float] = []
    resumed, goes_on = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert goes_on.wait(GENEROUS)

    def handler(*args: Any) -> None:
        if error:
            raise error

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
    before = signal.signal(signal.SIGTERM, handler)
    try:
        Sigterm(ask=lambda: None, busy=lambda: False, here=lambda: False, resume=resumed.set).chain()
        with pytest.raises(error) if error else nullcontext():
            signal.raise_signal(signal.SIGTERM)
        assert not resumed.is_set()
        goes_on.set()
        assert resumed.wait(GENEROUS)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(slept) == {module.DRAINS}
    assert module.DRAINS > module.STAYS


def test_only_the_last_signal_counts_that_a_process_has_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[bool] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
    sigterm = Sigterm(ask=lambda: None, busy=lambda: False, here=lambda: False, resume=lambda: resumed.append(True))
    sigterm._survivals = 2
    sigterm._resume_after_pause(os.getpid(), 1, module.DRAINS)
    assert resumed == []
    sigterm._resume_after_pause(os.getpid(), 2, module.DRAINS)
    assert resumed == [True]


def test_no_thread_is_left_where_threads_are_greenlets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub would wait for it. gevent and eventlet replace ``_thread.start_new_thread``."""
    started: list[Any] = []
    monkeypatch.setattr(_thread, "start_new_thread", lambda *args: started.append(args))
    monkeypatch.setattr(module, "_thread", SimpleNamespace(start_new_thread=lambda *args: started.append(args)))
    before = signal.signal(signal.SIGTERM, lambda *args: None)
    try:
        Sigterm(ask=lambda: None, busy=lambda: False, here=lambda: False).chain()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert started == []


class Ended(BaseException):
    """Stands for the end of the process, behind which nothing runs."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processes that would have ended. There is no handler of SIGTERM before."""
    found: list[int] = []

    def end() -> None:
        found.append(os.getpid())
        raise Ended

    monkeypatch.setattr(module, "_end", end)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield found
    signal.signal(signal.SIGTERM, before)


def test_s19_a_child_forked_in_c_during_the_hand_over_does_not_end(
    ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent does."""
    parent = os.getpid()

    def busy() -> bool:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        return True

    sigterm = Sigterm(ask=lambda: None, busy=busy, here=lambda: False)
    sigterm.chain()
    signal.raise_signal(signal.SIGTERM)
    assert ended == []
    monkeypatch.setattr(os, "getpid", lambda: parent)
    sigterm.finish()
    assert ended == [], "that was the child's again"


def test_s20_a_child_of_an_ending_process_hands_over_like_any(
    ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    sigterm = Sigterm(ask=lambda: asked.append(os.getpid()), busy=lambda: len(asked) < 1, here=lambda: False)
    sigterm.chain()
    with pytest.raises(Ended):
        signal.raise_signal(signal.SIGTERM)
    assert sigterm._ending
    monkeypatch.setattr(os, "getpid", lambda: -1)
    sigterm.chain()
    assert not sigterm._ending


def test_an_interruption_that_was_on_its_way_takes_no_signal_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent as an exception where the handler of SIGINT is one in C, and arrives in our handler."""
    called: list[str] = []
    arrives = [LeadershipLost()]

    def let_it_come() -> None:
        if arrives:
            raise arrives.pop()

    monkeypatch.setattr(interruption, "_let_it_come", let_it_come)
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append("handler"))
    try:
        Sigterm(ask=lambda: called.append("ask"), busy=lambda: False, here=lambda: False).chain()
        here()._sent = True
        with pytest.raises(LeadershipLost):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == ["ask", "handler"]
    assert (here()._shields, here()._sent) == (0, False)
