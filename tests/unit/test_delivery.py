"""Callbacks: in pairs, in order, and never in each other's way. The clock is invented."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from django_leader import clock, delivery
from django_leader.delivery import Listeners, News, TermDelivery

LONG = 20.0


class Stage:
    """A term whose clock is set by the test, and what happened in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.deadline = 100.0, 110.0
        self.log: list[str] = []
        self.delivered, self.failed, self.expired = threading.Event(), threading.Event(), threading.Event()
        self.gain: list[Callable[[], Any]] = []
        self.loss: list[Callable[[], Any]] = []
        monkeypatch.setattr(clock, "now", lambda: self.now)
        monkeypatch.setattr(delivery, "LONGEST_LOOK", 0.001)

    def start(self) -> TermDelivery:
        term = TermDelivery(
            "test",
            gain=self.gain,
            loss=lambda reason: [lambda: self.log.append(f"loss {reason}"), *self.loss],
            deadline=lambda: self.deadline,
            expired=self._expire,
            gain_failed=self.failed.set,
            delivered=self.delivered.set,
        )
        self.term = term
        term.start()
        return term

    def _expire(self) -> None:
        self.expired.set()
        self.term.end("expired")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


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


def test_s16_a_gain_callback_that_does_not_end_delays_neither_the_others_nor_the_loss(stage: Stage) -> None:
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
        "test: a gain callback raised",
        "test: a loss callback raised",
    ]


def test_a_loss_callback_knows_that_it_is_one(stage: Stage) -> None:
    seen: list[bool] = []
    stage.loss = [lambda: seen.append(stage.term.runs_here())]
    term = stage.start()
    term.end("resigned")
    assert stage.delivered.wait(LONG)
    assert seen == [True]
    assert term.runs_here() is False


def test_s20_where_no_thread_can_be_started_nothing_is_announced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="shutdown"):
        stage.start()
    assert stage.log == []


def test_a_gain_callback_without_a_thread_ends_the_term(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.endswith("gain"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    stage.gain = [lambda: stage.log.append("gain")]
    stage.start().end("callback-failed")
    assert stage.failed.is_set()
    assert stage.delivered.wait(LONG)


def test_news_come_in_order_whatever_one_of_them_does() -> None:
    news, log, over = News("test"), [], threading.Event()

    def fails() -> None:
        raise ValueError

    news.put([lambda: log.append(1), fails])
    news.put([lambda: log.append(2), over.set])
    assert over.wait(LONG)
    assert log == [1, 2]
    news.put([])


def test_news_without_a_thread_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    news, over = News("test"), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("exit")))
        news.put([lambda: None])
    news.put([over.set])
    assert over.wait(LONG)


def test_something_is_done_behind_every_callback() -> None:
    log: list[str] = []
    listeners = Listeners(lambda: log.append("after"))
    listeners.on_gain.append(lambda token: log.append(f"gain {token}"))
    listeners.on_loss.append(lambda token, reason: log.append(f"loss {token} {reason}"))
    listeners.on_change.append(lambda previous, current: log.append(f"{previous}>{current}"))
    for call in [*listeners.gained(1), *listeners.lost(1, "resigned"), *listeners.changed("a", "b")]:
        call()
    assert log == ["gain 1", "after", "loss 1 resigned", "after", "a>b", "after"]
