"""Where ``LeadershipLost`` is raised, and where not: in the main thread by a signal, elsewhere by an exception."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from django_leader import LeadershipLost
from django_leader.system import clock, interruption
from django_leader.system.interruption import Interruptions, Scope, here, shielded
from tests.support.servers import GENEROUS

Where = Callable[[Callable[[], Any]], None]


def in_main_thread(function: Callable[[], Any]) -> None:
    function()


def in_another_thread(function: Callable[[], Any]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in failed:
        raise error


@pytest.fixture(params=[in_main_thread, in_another_thread])
def where(request: pytest.FixtureRequest) -> Where:
    found: Where = request.param
    return found


def interrupt(thread: Interruptions, scope: Scope, *, urgent: bool = False) -> None:
    """From another thread, whose end is waited for: what it has sent is there."""
    other = threading.Thread(target=thread.interrupt, args=[scope], kwargs={"urgent": urgent})
    other.start()
    other.join()
    steps()


def steps() -> None:
    for number in range(1000):
        repr(number)


def test_code_of_ours_is_not_interrupted_and_what_is_behind_it_is(where: Where) -> None:
    seen: list[str] = []

    def body() -> None:
        scope = scopes[0]
        with shielded() as thread:
            interrupt(thread, scope)
            steps()
            seen.append("ours")
        seen.append("the body goes on")

    scopes = [Scope(lambda: 0.0)]

    def test() -> None:
        with shielded() as thread, pytest.raises(LeadershipLost):
            thread.run(body, scopes[0])
        steps()
        seen.append("over")

    where(test)
    assert seen == ["ours", "over"]


def test_a_body_is_interrupted_where_it_is_and_once(where: Where) -> None:
    seen: list[str] = []
    scope = Scope(lambda: 0.0)

    def body() -> None:
        try:
            interrupt(here(), scope)
            steps()
            seen.append("not interrupted")
        finally:
            interrupt(here(), scope, urgent=True)
            with shielded():
                pass
            steps()
            seen.append("cleans up")

    def test() -> None:
        with shielded() as thread, pytest.raises(LeadershipLost):
            thread.run(body, scope)

    where(test)
    assert seen == ["cleans up"]


def test_what_comes_when_the_body_has_ended_comes_to_nothing(where: Where) -> None:
    scope = Scope(lambda: 0.0)

    def test() -> None:
        with shielded() as thread:
            assert thread.run(lambda: 7, scope) == 7
            interrupt(thread, scope, urgent=True)
        steps()

    where(test)


def test_each_body_gets_its_own_whatever_those_inside_it_swallow(where: Where) -> None:
    seen: list[str] = []
    outer_scope, middle_scope, inner_scope = (Scope(lambda: 0.0) for _ in range(3))

    def inner() -> None:
        with pytest.raises(LeadershipLost):
            interrupt(here(), outer_scope)
        seen.append("inner")

    def middle() -> None:
        with pytest.raises(LeadershipLost), shielded() as thread:
            thread.run(inner, inner_scope)
        seen.append("middle")

    def outer() -> None:
        with pytest.raises(LeadershipLost), shielded() as thread:
            thread.run(middle, middle_scope)
        seen.append("outer")
        with shielded() as thread:  # what it calls to clean up is not interrupted again
            thread.run(steps, Scope(lambda: 0.0))
        raise KeyError

    def test() -> None:
        with shielded() as thread, pytest.raises(KeyError):
            thread.run(outer, outer_scope)

    where(test)
    assert seen == ["inner", "middle", "outer"]


def test_a_thread_that_leaves_is_interrupted_only_if_that_is_urgent(where: Where) -> None:
    scope = Scope(lambda: 0.0)

    def body() -> None:
        here().leaving = True
        interrupt(here(), scope)
        steps()
        with pytest.raises(LeadershipLost):
            interrupt(here(), scope, urgent=True)

    def test() -> None:
        with shielded() as thread:
            thread.run(body, scope)
            assert not thread.leaving

    where(test)


def test_what_ends_the_process_is_not_replaced(where: Where) -> None:
    scope = Scope(lambda: 0.0)

    def body() -> None:
        with shielded() as thread:
            interrupt(thread, scope)
            raise SystemExit(9)

    def test() -> None:
        with shielded() as thread, pytest.raises(SystemExit):
            thread.run(body, scope)

    where(test)


def test_a_real_ctrl_c_does_what_it_did_before() -> None:
    def body() -> None:
        signal.raise_signal(signal.SIGINT)

    with shielded() as thread:
        with pytest.raises(KeyboardInterrupt):
            thread.run(body, Scope(lambda: 0.0))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            thread.run(body, Scope(lambda: 0.0))
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_signal_that_the_main_thread_has_missed_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before a system call does not end it."""
    monkeypatch.setattr(interruption, "FIRST_PAUSE", 0.0)
    scope, missed = Scope(lambda: 0.0), threading.Event()

    def watch() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pthread_kill", lambda *_: missed.set())
            thread.interrupt(scope, urgent=False)
        thread.repeat()

    def body() -> None:
        watcher.start()
        time.sleep(GENEROUS)
        raise AssertionError("nothing has ended the wait")

    watcher = threading.Thread(target=watch)
    with shielded() as thread, pytest.raises(LeadershipLost):
        thread.run(body, scope)
    watcher.join()
    assert missed.is_set()


def test_a_repetition_that_comes_on_top_is_no_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "FIRST_PAUSE", 0.0)
    scope = Scope(lambda: 0.0)
    handled: list[str] = []

    def handler(previous: Any, number: int, frame: FrameType | None) -> None:
        if not handled:
            handled.append("by the first, which the second interrupts")
            other = threading.Thread(target=thread.repeat)
            other.start()
            other.join()
            steps()
        original(previous, number, frame)
        handled.append("by both")

    def ours() -> None:
        with shielded():
            interrupt(thread, scope)
            handled.append("behind the shield")

    def body() -> None:
        with pytest.raises(LeadershipLost):
            ours()
        thread.repeat()  # comes to nothing: the body has been interrupted

    with shielded() as thread:
        original = thread._on_signal
        monkeypatch.setattr(thread, "_on_signal", handler)
        thread.run(body, scope)
        with pytest.raises(KeyboardInterrupt):  # the next body's Ctrl-C is its own
            thread.run(lambda: signal.raise_signal(signal.SIGINT), Scope(lambda: 0.0))
    assert handled == ["by the first, which the second interrupts", "by both", "by both", "behind the shield"]


def test_a_signal_is_repeated_after_a_pause_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread may hang in C, and C code may have taken the signal."""
    scope, sent, now = Scope(lambda: 0.0), list[float](), 100.0
    monkeypatch.setattr(clock, "now", lambda: now)

    def body() -> None:
        nonlocal now
        with monkeypatch.context() as patch:
            patch.setattr(signal, "pthread_kill", lambda *_: sent.append(now))
            here().interrupt(scope, urgent=False)
            while now < 103:
                here().repeat()
                now += 0.01
        with pytest.raises(LeadershipLost):
            here().check()

    with shielded() as thread:
        thread.run(body, scope)
        here().repeat()  # the body has ended
    pauses = [round(after - before, 2) for before, after in itertools.pairwise(sent)]
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5], abs=0.02)
