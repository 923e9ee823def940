"""The instants at which entries of Celery beat are due."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.conftest import need

need(find_spec("celery"), "celery")

from celery import Celery  # noqa: E402
from celery.schedules import BaseSchedule, crontab, schedstate, schedule  # noqa: E402

from django_leader.celery.due import Due, due_after, instant, milliseconds, next_due  # noqa: E402

NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
BERLIN = ZoneInfo("Europe/Berlin")


def make(kind: Callable[..., Any], *args: Any, zone: str = "UTC", **options: Any) -> Any:
    """A schedule of an application in ``zone``."""
    app = Celery("due", set_as_current=False)
    app.conf.timezone = zone
    return kind(*args, app=app, **options)


def at(seconds: float) -> int:
    return milliseconds(NOON + timedelta(seconds=seconds))


def test_an_interval_counts_from_the_last_run() -> None:
    every = make(schedule, timedelta(seconds=10))
    assert next_due(every, at(0), at(10)) == Due(at(10), 0)
    assert next_due(every, at(0), at(19.999)) == Due(at(10), 0)
    assert next_due(every, at(0), at(20)) == Due(at(20), at(20) - 1)
    assert next_due(every, at(0), at(25)) == Due(at(25), at(25) - 1)


def test_a_crontab_names_the_same_instants_whenever_it_is_asked() -> None:
    hourly = make(crontab, minute="30")
    assert {next_due(hourly, at(0) + more, at(2000)) for more in (0, 1, 1799_000)} == {Due(at(1800), 0)}
    assert due_after(hourly, at(1800)) == at(5400)


@pytest.mark.parametrize("period", [0.001, 0.0001, 0.0])
def test_a_slot_is_later_than_the_last_one_however_short_the_period(period: float) -> None:
    """It is late always, but in the very millisecond."""
    assert next_due(make(schedule, timedelta(seconds=period)), at(0), at(0) + 1) == Due(at(0) + 1, 0)


def test_the_clock_of_the_schedule_goes_on() -> None:
    every = make(crontab)
    before = every.nowfun
    due_after(every, at(0))
    assert every.nowfun is before


def test_a_relative_interval_is_rounded_as_by_celery() -> None:
    hourly = make(schedule, timedelta(hours=1), relative=True)
    assert due_after(hourly, at(60)) == at(3600)


@pytest.mark.parametrize(
    ("last", "due"),
    [
        (datetime(2026, 3, 28, 3, 30, tzinfo=BERLIN), datetime(2026, 3, 29, 3, 30, tzinfo=BERLIN)),
        (datetime(2026, 10, 24, 3, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 3, 30, tzinfo=BERLIN)),
        (datetime(2026, 10, 25, 3, 30, tzinfo=BERLIN), datetime(2026, 10, 26, 3, 30, tzinfo=BERLIN)),
    ],
)
def test_a_crontab_keeps_local_time_where_daylight_saving_changes(last: datetime, due: datetime) -> None:
    daily = make(crontab, minute="30", hour="3", zone="Europe/Berlin")
    assert due_after(daily, milliseconds(last)) == milliseconds(due)


class Fixed(BaseSchedule):  # type: ignore[misc]
    """Due at one instant, whatever ran before, as a clocked schedule."""

    when = NOON

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        now: datetime = self.now()
        return self.when - now

    def is_due(self, last_run_at: datetime) -> Any:
        return schedstate(True, 1.0)


def test_a_clocked_schedule_has_one_slot() -> None:
    assert next_due(make(Fixed), at(-100), at(50)) == Due(at(0), 0)


def test_a_clocked_schedule_that_is_enabled_again_is_due_again() -> None:
    """Its last run counts from the change then, which is later than its instant."""
    assert next_due(make(Fixed), at(20), at(50)) == Due(at(20) + 1, 0)


class solar(BaseSchedule):  # type: ignore[misc]  # noqa: N801
    """An event each day, which is computed a bit differently each time, as by the package that Celery uses."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        seconds = (last_run_at - NOON).total_seconds()
        now: datetime = self.now()
        return NOON + timedelta(days=max(0, (seconds - 0.05) // 86400 + 1), seconds=0.02) - now


def test_the_event_of_the_last_run_is_not_due_again() -> None:
    sunrise = make(solar)
    first = next_due(sunrise, at(-3600), at(1))
    assert first == Due(at(0.02), 0)
    assert next_due(sunrise, first.slot, at(86401)) == Due(at(86400.02), 0)


def test_a_schedule_that_does_not_say_when_is_due_now() -> None:
    silent = make(BaseSchedule)
    assert next_due(silent, at(0), at(5)) == Due(at(5), 0)
    assert next_due(silent, at(5), at(5)) == Due(at(5) + 1, 0)


def test_an_instant_has_the_zone_of_its_like() -> None:
    assert instant(at(0), NOON.astimezone(BERLIN)).isoformat() == "2026-01-02T13:00:00+01:00"
    assert instant(at(0), datetime(2026, 1, 1)) == datetime(2026, 1, 2, 12)  # noqa: DTZ001
    assert milliseconds(datetime(2026, 1, 2, 12)) == at(0)  # noqa: DTZ001


def test_an_instant_is_rounded_up() -> None:
    assert milliseconds(NOON + timedelta(microseconds=1)) == at(0) + 1
    assert instant(milliseconds(NOON), NOON) == NOON
