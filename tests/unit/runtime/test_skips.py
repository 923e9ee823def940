"""What the log says of slots that were not run, on an invented clock."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone

import pytest

from django_leader.runtime.skips import QUIET, Skips, Why

OVERLAPPED = Why(logging.WARNING, "was not run: it goes on")
MISSED = Why(logging.WARNING, "was not run: too late")
BEGAN = datetime(2026, 11, 28, tzinfo=timezone.utc)


class Log:
    """Slots of one second each, and what is said of them."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.skips, self._caplog = Skips("election"), caplog

    def note(self, second: int, why: Why = OVERLAPPED, *, name: str = "job", since: int | None = None) -> list[str]:
        last = BEGAN + timedelta(seconds=second)
        first = last if since is None else BEGAN + timedelta(seconds=since)
        return self.said(lambda: self.skips.note(name, first, last, why, float(second)))

    def flush(self, now: float | None = None) -> list[str]:
        return self.said(lambda: self.skips.flush() if now is None else self.skips.flush(now))

    def said(self, act: object) -> list[str]:
        self._caplog.clear()
        assert callable(act)
        act()
        return [entry.getMessage() for entry in self._caplog.records]


@pytest.fixture
def slots(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_the_first_slot_is_said_at_once_and_the_others_once(slots: Log) -> None:
    assert slots.note(0) == ["election: the slot 2026-11-28 00:00:00+00:00 of the job 'job' was not run: it goes on"]
    assert [line for second in range(1, 600) for line in slots.note(second)] == []
    assert slots.skips.due == QUIET
    assert slots.flush(599.9) == []
    assert slots.flush(600) == [
        "election: 599 more times, for slots from 2026-11-28 00:00:01+00:00 to 2026-11-28 00:09:59+00:00, the job "
        "'job' was not run: it goes on"
    ]
    assert slots.note(601) == [], "ten minutes after that line, too"
    assert slots.skips.due == 2 * QUIET
    assert slots.flush(1200)[0].startswith("election: 1 more times")


def test_what_is_over_is_said_again_when_it_comes_back(slots: Log) -> None:
    slots.note(0)
    slots.flush(600)
    assert len(slots.note(700)) == 1
    assert slots.skips.due == float("inf")


def test_each_job_and_each_reason_is_said(slots: Log) -> None:
    assert all([slots.note(0), slots.note(0, name="other"), slots.note(1, MISSED)])


def test_slots_in_a_row_have_one_line(slots: Log) -> None:
    assert slots.note(60, MISSED, since=1) == [
        "election: for the slots from 2026-11-28 00:00:01+00:00 to 2026-11-28 00:01:00+00:00 the job 'job' was not "
        "run: too late"
    ]


def test_at_the_end_of_the_term_nothing_is_left_unsaid(slots: Log) -> None:
    slots.note(0)
    assert slots.flush() == []
    slots.note(1)
    slots.note(2)
    assert len(slots.flush()) == 1
    assert slots.flush() == []
