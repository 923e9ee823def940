"""What the threads of the package survive, and what they say of it."""

from __future__ import annotations

import logging
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from django_leader.system import starts
from django_leader.system.forks import Forked
from django_leader.system.log import log
from django_leader.system.starts import insist
from django_leader.system.threads import OwnThread, survives

LONG = 20.0


class Killed(BaseException):
    """As greenlet raises it in a greenlet that somebody kills."""


def in_own_thread(call: Any) -> Any:
    """What ``call`` returns in a thread of the package."""
    results: list[Any] = []
    thread = OwnThread(lambda: results.append(call()), "test")
    thread.start()
    thread.join(LONG)
    return results[0]


@pytest.mark.parametrize("with_greenlets", [True, False])
def test_a_thread_of_ours_survives_everything_that_is_not_for_it(
    monkeypatch: pytest.MonkeyPatch, with_greenlets: bool
) -> None:
    if with_greenlets:
        monkeypatch.setitem(sys.modules, "greenlet", SimpleNamespace(GreenletExit=Killed))
    else:
        monkeypatch.delitem(sys.modules, "greenlet", raising=False)
    errors = [MemoryError(), SystemExit(), KeyboardInterrupt(), GeneratorExit(), BaseException(), Forked(), Killed()]
    assert [survives(error) for error in errors] == [True, False, False, False, False, False, False]
    own = [True, True, True, True, True, False, not with_greenlets]
    assert in_own_thread(lambda: [survives(error) for error in errors]) == own


def test_a_log_handler_that_exits_ends_no_thread_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It raises in the application's threads."""

    def exits(*args: Any, **options: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(logging.getLogger("django_leader"), "log", exits)
    assert in_own_thread(lambda: log(logging.INFO, "a line")) is None
    with pytest.raises(SystemExit):
        log(logging.INFO, "a line")


def test_what_goes_on_to_raise_is_said_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(starts, "PAUSE", 0.0)

    def call() -> None:
        calls.append(1)
        if len(calls) < 5:
            raise ZeroDivisionError("a bug")

    insist(call, "the test")
    assert len(calls) == 5
    assert caplog.text.count("the test failed, and is tried again every 0.0 seconds") == 1
    monkeypatch.setattr(starts, "SILENCE", 0.0)
    calls.clear()
    insist(call, "the test")
    assert caplog.text.count("the test failed, and is tried again every 0.0 seconds") == 5

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        insist(interrupted, "the test")
    assert threading.current_thread() is threading.main_thread()
