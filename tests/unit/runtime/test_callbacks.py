"""Callbacks: in pairs, in order, and never in each other's way. The clock is invented."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from django_leader.runtime import callbacks, work
from django_leader.runtime.callbacks import SerialExecutor, TermDelivery
from django_leader.runtime.listeners import Callback, Listeners, Pair, TermCalls
from django_leader.runtime.work import Gain
from django_leader.system import clock
from django_leader.system.starts import starts
from tests.support.servers import eventually

LONG = 20.0


class Stage:
    """A term whose clock is set by the test, and what happened in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.deadline = 100.0, 110.0
        self.log: list[str] = []
        self.delivered, self.failed, self.expired = threading.Event(), threading.Event(), threading.Event()
        self.gain: list[Callable[[], Any]] = []
        self.loss: list[Callable[[], Any]] = []
        self.made: list[TermDelivery] = []
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(callbacks, "LONGEST_UNCHECKED", 0.001)

    def start_threads(self) -> TermDelivery:
        self.listeners = listeners = Listeners(lambda: None)
        listeners.on_gain = [lambda token, c=callback: c() for callback in self.gain]  # type: ignore[misc]
        listeners.on_loss = [lambda token, reason: self.log.append(f"loss {reason}")]
        listeners.on_loss += [lambda token, reason, c=callback: c() for callback in self.loss]  # type: ignore[misc]
        self.term = TermDelivery(
            "test",
            listeners,
            deadline=lambda token: self.deadline,
            expired=self._expire,
            gain_failed=lambda token: self.failed.set(),
            delivered=lambda token: self.delivered.set(),
        )
        self.made.append(self.term)
        self.term.start_threads()
        return self.term

    def start(self) -> TermDelivery:
        self.start_threads().begin(1)
        return self.term

    def _expire(self) -> None:
        self.expired.set()
        self.term.end("expired")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(monkeypatch)
    yield stage
    for term in stage.made:
        term.cancel()  # or its watcher looks at a clock that is no longer invented, again and again


def test_s16_gain_then_loss_each_once(stage: Stage) -> None:
    gained = threading.Event()
    stage.gain = [lambda: stage.log.append("gain"), gained.set]
    term = stage.start()
    assert gained.wait(LONG)
    assert not stage.delivered.is_set()
    term.end("resigned")
    term.end("expired")
    assert stage.delivered.wait(LONG)
    assert stage.log == ["gain", "loss resigned"]


def test_s09_the_watcher_announces_the_deadline_and_follows_a_renewal(stage: Stage) -> None:
    stage.start()
    stage.now, stage.deadline = 111.0, 120.0
    assert not stage.expired.wait(0.02)
    stage.now = 120.0
    assert stage.delivered.wait(LONG)
    assert stage.log == ["loss expired"]


def test_s16_a_gain_callback_that_does_not_end_delays_nothing(stage: Stage) -> None:
    """Neither the other callbacks nor the loss."""
    end, other = threading.Event(), threading.Event()
    stage.gain = [lambda: end.wait(LONG), other.set]
    term = stage.start()
    assert other.wait(LONG)
    term.end("resigned")
    assert stage.delivered.wait(LONG)
    end.set()


def test_s17_callbacks_that_raise_are_logged_and_end_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise SystemExit("not an Exception even")

    stage.gain, stage.loss = [fails], [fails, lambda: stage.log.append("next")]
    with caplog.at_level(logging.ERROR):
        term = stage.start()
        assert stage.failed.wait(LONG)
        term.end("callback-failed")
        assert stage.delivered.wait(LONG)
    assert stage.log == ["loss callback-failed", "next"]
    assert [record.message for record in caplog.records] == [
        "test: a gain callback raised an exception",
        "test: a loss callback raised an exception",
    ]


def test_a_callback_knows_that_it_is_one(stage: Stage) -> None:
    seen: list[bool] = []
    stage.gain = stage.loss = [lambda: seen.append(stage.listeners.call_here())]
    term = stage.start()
    term.end("resigned")
    assert stage.delivered.wait(LONG)
    eventually(lambda: seen == [True, True])
    assert stage.listeners.call_here() is False


def test_what_work_raises_is_told_as_such(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    @contextmanager
    def fails(token: int) -> Iterator[None]:
        stage.log.append("entered")
        yield
        raise ValueError("when it is left")

    term = stage.start_threads()
    stage.listeners.works.append(fails)
    term.begin(1)
    eventually(lambda: "entered" in stage.log)
    term.end("resigned")
    assert stage.delivered.wait(LONG)
    eventually(lambda: caplog.messages)
    assert caplog.messages == ["test: work of while_leading raised an exception"]


def pair(stage: Stage, gained: Callable[[], Any] = lambda: None) -> Pair:
    """A pair that notes what is called, once ``gained`` has returned or raised."""

    def noted(token: int) -> None:
        try:
            gained()
        finally:
            stage.log.append(f"gained {token}")

    return Pair(noted, lambda token, reason: stage.log.append(f"lost {token} {reason}"), "a paired gain")


def test_s16_the_loss_of_a_pair_alone_waits_for_its_gain(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.01)
    go = threading.Event()
    term = stage.start_threads()
    stage.listeners.pairs += [pair(stage), pair(stage, lambda: go.wait(LONG))]
    term.begin(1)
    term.end("resigned")
    eventually(lambda: "test: a paired gain has not ended" in caplog.text)
    assert sorted(stage.log) == ["gained 1", "loss resigned", "lost 1 resigned"]
    assert stage.log[-1] == "lost 1 resigned"
    assert not stage.delivered.is_set()
    go.set()
    assert stage.delivered.wait(LONG)
    assert stage.log[3:] == ["gained 1", "lost 1 resigned"]


def test_s16_the_loss_of_a_pair_follows_a_gain_that_raises(stage: Stage) -> None:
    term = stage.start_threads()
    stage.listeners.pairs.append(pair(stage, lambda: int("none")))
    term.begin(1)
    assert stage.failed.wait(LONG)
    term.end("callback-failed")
    assert stage.delivered.wait(LONG)
    assert stage.log == ["gained 1", "loss callback-failed", "lost 1 callback-failed"]


def test_s16_a_pair_whose_gain_has_no_thread_has_no_loss(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    term = stage.start_threads()
    stage.listeners.pairs += [pair(stage), pair(stage)]
    monkeypatch.setattr(threading.Thread, "start", refuse(""))
    with pytest.raises(RuntimeError, match="no thread could be started for a gain callback"):
        term.begin(1)
    term.end("callback-failed")
    assert stage.delivered.wait(LONG)
    assert sorted(stage.log) == ["gained 1", "loss callback-failed", "lost 1 callback-failed"]


def test_s16_a_pair_that_is_registered_during_a_term_begins_with_the_next(stage: Stage) -> None:
    term = stage.start()
    stage.listeners.pairs.append(pair(stage))
    term.end("resigned")
    assert stage.delivered.wait(LONG)
    assert stage.log == ["loss resigned"]


def test_a_gain_is_called_or_skipped_but_not_both() -> None:
    called: list[int] = []
    skipped, begun = Gain(lambda: called.append(1)), Gain(lambda: called.append(2))
    for gain, calls in ((skipped, (skipped.skip, skipped)), (begun, (begun, begun.skip, begun))):
        for call in calls:
            call()
        gain.wait("it")  # which returns
    assert (called, skipped.skipped, begun.skipped) == ([2], True, False)


@pytest.mark.parametrize("which", ["term", "gain"])
def test_s20_where_no_thread_can_be_started_nothing_is_announced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse(which))
    with pytest.raises(RuntimeError, match="shutdown"):
        stage.start_threads()
    assert stage.log == []


def test_what_was_started_ends_when_there_is_no_term(stage: Stage) -> None:
    term = stage.start_threads()
    term.cancel()
    for thread in (term._watcher, term._first_gain):
        thread.join(LONG)
        assert not thread.is_alive()
    assert stage.log == []


def test_a_term_that_was_started_starts_no_thread_to_begin(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    gained = threading.Event()
    stage.gain = [gained.set]
    term = stage.start_threads()
    monkeypatch.setattr(threading.Thread, "start", refuse(""))
    term.begin(1)
    assert gained.wait(LONG)
    term.end("resigned")
    assert stage.delivered.wait(LONG)


def test_a_further_gain_callback_without_a_thread_ends_the_term(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.gain = [lambda: None, lambda: stage.log.append("gain")]
    term = stage.start_threads()
    monkeypatch.setattr(threading.Thread, "start", refuse(""))
    with pytest.raises(RuntimeError, match="no thread could be started for a gain callback: can't start new thread"):
        term.begin(1)
    term.end("callback-failed")
    assert stage.delivered.wait(LONG)
    assert stage.log == ["loss callback-failed"]


def refuse(name: str) -> Callable[[threading.Thread], None]:
    """Has threads whose names end in ``name`` not start, as at the end of the interpreter."""
    start = threading.Thread.start

    def start_or_refuse(self: threading.Thread) -> None:
        if self.name.endswith(name):
            raise RuntimeError("can't start new thread at interpreter shutdown")
        start(self)

    return start_or_refuse


def test_news_come_in_order_whatever_one_of_them_does() -> None:
    news, log, over = SerialExecutor("test"), [], threading.Event()

    def fails() -> None:
        raise ValueError

    news.put([lambda: log.append(1), fails])
    news.go()
    news.put([lambda: log.append(2), over.set])
    news.go()
    assert over.wait(LONG)
    assert log == [1, 2]
    news.put([])
    news.go()


def test_news_without_a_thread_are_told_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    news, told = SerialExecutor("test"), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
        news.put([lambda: told.append(1)])
        news.go()
    news.put([lambda: told.append(2)])
    news.go()

    def all_told() -> bool:
        starts.retry()
        return len(told) == 2

    eventually(all_told)
    assert told == [1, 2]


@pytest.mark.parametrize("fails", [True, False])
def test_s17_an_end_that_is_not_noticed_does_not_make_the_watcher_spin(stage: Stage, fails: bool) -> None:
    looks: list[float] = []

    def expired() -> None:
        looks.append(clock.now())
        if fails:
            raise MemoryError

    term = stage.start_threads()
    term._expired = expired
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "LONGEST_UNCHECKED", 0.2)
        start, stage.now = time.monotonic(), 120.0
        term.begin(1)
        eventually(lambda: len(looks) > 3)
        assert len(looks) <= 3 + 6 * (time.monotonic() - start) / 0.2
        term.end("expired")
        assert stage.delivered.wait(LONG)
    assert stage.log == ["loss expired"]


def test_something_is_done_behind_every_callback() -> None:
    log: list[str] = []
    listeners = Listeners(lambda: log.append("after"))
    listeners.on_gain.append(lambda token: log.append(f"gain {token}"))
    listeners.on_loss.append(lambda token, reason: log.append(f"loss {token} {reason}"))
    listeners.on_change.append(lambda previous, current: log.append(f"{previous}>{current}"))
    term = TermCalls(listeners, 1, "test")
    calls: list[Callback] = [*term.gains, *term.losses("resigned"), *listeners.changed("a", "b")]
    for call in calls:
        call()
    assert log == ["gain 1", "after", "loss 1 resigned", "after", "a>b", "after"]


def test_s19_in_a_fork_an_inherited_watcher_ends_and_tells_nobody(stage: Stage) -> None:
    term = stage.start()
    term.abandon()
    term._watcher.join(LONG)
    assert not term._watcher.is_alive()
    assert stage.log == []
    assert not stage.delivered.is_set()


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has this process be another one from now on: the child of a fork in C, in which all greenlets go on."""
    return lambda: monkeypatch.setattr(os, "getpid", lambda: -1)


Fork = Callable[[], None]


def test_s19_nobody_is_told_of_a_loss_in_a_child(stage: Stage, fork: Fork) -> None:
    term = stage.start()
    fork()
    stage.now = 120.0  # the deadline is void in a child, which is no end of the term
    term._watcher.join(LONG)
    assert not term._watcher.is_alive()
    assert (stage.log, stage.expired.is_set(), stage.delivered.is_set()) == ([], False, False)


def test_s19_a_loss_that_was_being_told_goes_on_in_no_child(stage: Stage, fork: Fork) -> None:
    """A callback forks, and returns in the child."""
    stage.loss = [fork, lambda: stage.log.append("next")]
    term = stage.start()
    term.end("resigned")
    term._watcher.join(LONG)
    assert (stage.log, stage.delivered.is_set()) == (["loss resigned"], False)


def test_s19_a_gain_callback_that_fails_in_a_child_ends_no_term(stage: Stage, fork: Fork) -> None:
    """It has forked that child itself."""

    def forks() -> None:
        fork()
        raise RuntimeError("in the child alone")

    stage.gain = [forks]
    term = stage.start()
    term._first_gain.join(LONG)
    assert not stage.failed.is_set()


def test_s19_a_gain_is_announced_in_no_child(stage: Stage, fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a term is announced other greenlets run, and so may fork."""
    stage.gain = [lambda: stage.log.append("first"), lambda: stage.log.append("second")]
    term = stage.start_threads()

    def sleep(seconds: float) -> None:
        term._first_gain.join(LONG)
        fork()

    monkeypatch.setattr(time, "sleep", sleep)
    term.begin(1)
    assert stage.log == ["first"]
    term = stage.start_threads()
    term._pid = 0
    term.begin(2)
    assert term._calls is None
    term.cancel()
    term._run_gain(Gain(lambda: stage.log.append("third")))
    assert stage.log == ["first"]


def test_s19_a_child_forked_by_a_callback_skips_what_follows_it(fork: Fork) -> None:
    """What follows closes connections to the database, which the child shares with its parent."""
    behind: list[str] = []
    listeners = Listeners(lambda: behind.append("closed"))
    listeners.on_gain = [lambda token: None, lambda token: fork()]
    first, second = TermCalls(listeners, 1, "test").gains
    first()
    second()
    assert behind == ["closed"]


def test_s19_news_are_told_in_no_child(fork: Fork) -> None:
    told: list[str] = []
    news = SerialExecutor("test")
    news.put([fork, lambda: told.append("next")])
    news.go()
    for thread in threading.enumerate():
        if thread.name == "test news":
            thread.join(LONG)
    news.put([lambda: told.append("later")])
    news.go()
    assert told == []
    assert not [thread for thread in threading.enumerate() if thread.name == "test news"]
