"""No line of a candidacy is lost between the thread that adds it and one that writes."""

from __future__ import annotations

import os
from typing import Any

import pytest

from django_leader.runtime import term_log
from django_leader.runtime.term_log import TermLog


class Switches(dict[str, Any]):
    """Has another thread write while a line is being made."""

    def __init__(self, log: TermLog) -> None:
        super().__init__(log.about)
        self.log = log

    def __or__(self, other: Any) -> Any:
        self.log.write()
        return dict(self) | other


def test_a_line_that_is_added_while_another_thread_writes_is_written_later(caplog: pytest.LogCaptureFixture) -> None:
    log = TermLog("test", "default", "web-1")
    log.about = Switches(log)
    log.cannot_lead(RuntimeError("no thread"))
    log.write()
    log.write()
    assert caplog.messages == ["test: cannot lead: no thread"]


def test_lines_are_written_in_order_and_once(caplog: pytest.LogCaptureFixture) -> None:
    log = TermLog("test", "default", "web-1")
    for number in range(3):
        log.cannot_lead(RuntimeError(str(number)))
    log.write()
    log.write()
    assert caplog.messages == [f"test: cannot lead: {number}" for number in range(3)]


def test_s16_a_child_forked_while_a_line_is_written_writes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may wait, another greenlet may fork in C meanwhile, and the writer goes on in the child."""
    written: list[str] = []

    def write_and_fork(level: int, text: str, *args: Any, **options: Any) -> None:
        written.append(text)
        monkeypatch.setattr(os, "getpid", lambda: -1)

    log = TermLog("test", "default", "web-1")
    log.gained(1)
    log.gained(2)
    monkeypatch.setattr(term_log, "log", write_and_fork)
    log.write()
    log.write()
    assert len(written) == 1
