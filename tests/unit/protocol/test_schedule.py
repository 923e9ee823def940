"""When a job is due."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_leader.protocol.schedule import Cron, Every, Schedule
from tests.conftest import need

YEAR_2020, YEAR_2035 = 1_577_836_800_000, 2_051_222_400_000
INSTANTS = st.integers(YEAR_2020, YEAR_2035)


@pytest.fixture(autouse=True)
def cronsim() -> None:
    need(find_spec("cronsim"), "cronsim")


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def holds(schedule: Schedule, instant: int) -> None:
    """``next`` and ``latest`` agree."""
    following, last = schedule.next(instant), schedule.latest(instant)
    assert last <= instant < following
    assert schedule.next(last) == following
    assert schedule.latest(following) == following
    assert schedule.latest(following - 1) == last


@given(st.floats(1, 366 * 86400), st.floats(0, 0.999), INSTANTS)
def test_every_gives_each_slot_once(period: float, part: float, instant: int) -> None:
    schedule = Every(period, period * part)
    holds(schedule, instant)
    slot = schedule.next(instant)
    assert (slot - round(period * part * 1000)) % round(period * 1000) == 0, "counted from the epoch"


def test_every_means_multiples_since_the_epoch() -> None:
    assert Every(300).next(at("2026-11-28T10:03:00")) == at("2026-11-28T10:05:00")
    assert Every(300).next(at("2026-11-28T10:05:00")) == at("2026-11-28T10:10:00")
    assert Every(300).latest(at("2026-11-28T10:05:00")) == at("2026-11-28T10:05:00")
    assert Every(timedelta(days=1), timedelta(hours=3)).next(at("2026-11-28T10:00:00")) == at("2026-11-29T03:00:00")
    assert Every(60).text == "every 60 s"
    assert Every(86400, 10800).text == "every 86400 s, 10800 s later"


LINES = [
    "30 2 * * *", "15,45 2 * * *", "0 3 * * *", "*/5 * * * *", "0 * * * *", "30 2,3 * * *", "0 0 29 2 *",
    "0-59 2 * * *", "15 1-3 * * *", "0 0 * * MON#5", "0 0 L * *", "0 12 1 1 *", "*/7 */5 * * *", "5 */2 * * *",
    "0 0 1,15 * FRI",
]  # fmt: skip
ZONES = ["Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kathmandu", "UTC", "Africa/Casablanca"]
CHANGES = [at("2027-03-28T00:00:00"), at("2026-10-25T00:00:00"), at("2027-03-14T06:00:00"), at("2026-11-01T05:00:00"),
           at("2027-03-14T05:30:00")]  # fmt: skip
"""Instants near which the clocks of Berlin, New York and St John's are set."""
NEAR = st.builds(lambda change, later: change + later, st.sampled_from(CHANGES), st.integers(-86_400_000, 86_400_000))


@given(st.sampled_from(LINES), st.sampled_from(ZONES), INSTANTS | NEAR)
def test_cron_gives_each_slot_once(line: str, zone: str, instant: int) -> None:
    holds(Cron(line, zone), instant)


BERLIN = "Europe/Berlin"


def slots(line: str, begin: int, end: int, zone: str = BERLIN) -> list[str]:
    """All after ``begin`` up to ``end``, in the local time of the zone."""
    schedule, found, slot = Cron(line, zone), [], begin
    while (slot := schedule.next(slot)) <= end:
        found.append(datetime.fromtimestamp(slot / 1000, ZoneInfo(zone)).strftime("%d %H:%M %z"))
    return found


def test_a_time_that_is_skipped_is_due_after_the_gap() -> None:
    """In Berlin the clocks went from 02:00 to 03:00 on 28 March 2027."""
    night = at("2027-03-27T12:00:00", BERLIN), at("2027-03-28T12:00:00", BERLIN)
    assert slots("30 2 * * *", *night) == ["28 03:00 +0200"]
    assert slots("15,45 2 * * *", *night) == ["28 03:00 +0200"], "once"
    assert slots("30 3 * * *", *night) == ["28 03:30 +0200"]
    assert slots("*/30 1-3 * * *", *night) == ["28 01:00 +0100", "28 01:30 +0100", "28 03:00 +0200", "28 03:30 +0200"]


def test_a_time_that_comes_twice_is_due_the_first_time() -> None:
    """In Berlin the clocks went from 03:00 to 02:00 on 25 October 2026."""
    night = at("2026-10-24T12:00:00", BERLIN), at("2026-10-25T12:00:00", BERLIN)
    assert slots("30 2 * * *", *night) == ["25 02:30 +0200"]
    assert slots("30 2 * * *", at("2026-10-25T02:45:00", BERLIN), night[1]) == []
    assert slots("30 2 * * *", at("2026-10-25T02:15:00", BERLIN, fold=1), night[1]) == []
    assert Cron("30 2 * * *", BERLIN).latest(at("2026-10-25T02:10:00", BERLIN, fold=1)) == at(
        "2026-10-25T02:30:00", BERLIN
    )


def test_a_schedule_by_real_time_is_due_in_both_hours() -> None:
    night = at("2026-10-25T01:30:00", BERLIN), at("2026-10-25T03:00:00", BERLIN)
    assert slots("0 * * * *", *night) == ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100"]


def test_a_zone_may_be_given_as_an_object() -> None:
    assert Cron("0 3 * * *", ZoneInfo(BERLIN)).next(at("2026-11-28T00:00:00")) == at("2026-11-28T02:00:00")
    assert Cron("0 3 * * *", timezone.utc).next(at("2026-11-28T00:00:00")) == at("2026-11-28T03:00:00")
    assert Cron("0  3 * *  *", BERLIN).text == "cron 0 3 * * *, Europe/Berlin"


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Every(0), ValueError, "every is 0; give a number of seconds from 1 to 31622400"),
        (lambda: Every(-5), ValueError, "every is -5"),
        (lambda: Every(0.5), ValueError, "every is 0.5"),
        (lambda: Every(float("nan")), ValueError, "finite"),
        (lambda: Every(float("inf")), ValueError, "finite"),
        (lambda: Every(367 * 86400), ValueError, "a year"),
        (lambda: Every(timedelta(days=400)), ValueError, "a year"),
        (lambda: Every(True), TypeError, "every is True"),
        (lambda: Every(cast(Any, "60")), TypeError, "every is '60'; give seconds as a number, or a timedelta"),
        (lambda: Every(60, 60), ValueError, r"offset is 60; .* below every \(60\)"),
        (lambda: Every(60, -1), ValueError, "offset is -1"),
        (lambda: Cron("* * * * * *"), ValueError, "give five fields"),
        (lambda: Cron("@daily"), ValueError, "give five fields"),
        (lambda: Cron(""), ValueError, "give five fields"),
        (lambda: Cron("0 " * 5000), ValueError, "give five fields"),
        (lambda: Cron(cast(Any, 5)), TypeError, "cron is 5; give a str"),
        (lambda: Cron("61 * * * *"), ValueError, r"cron is '61 \* \* \* \*', which cannot be read \(Bad minute\)"),
        (lambda: Cron("a b c d e"), ValueError, "cannot be read"),
        (lambda: Cron("0 0 30 2 *"), ValueError, "cannot be read|never comes"),
        (lambda: Cron("0 0 31 4,6 *"), ValueError, "cannot be read|never comes"),
        (lambda: Cron("0 0 * 2 MON#5"), None, ""),
        (lambda: Cron("0 3 * * *", "Europe/Atlantis"), ValueError, "tz is 'Europe/Atlantis', which this machine does"),
        (lambda: Cron("0 3 * * *", "../../etc/passwd"), ValueError, "tz is"),
        (lambda: Cron("0 3 * * *", cast(Any, 2)), TypeError, "tz is 2; give the name of a time zone"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(make: Any, error: type[Exception] | None, said: str) -> None:
    if error is None:
        make()
    else:
        with pytest.raises(error, match=said):
            make()


def test_without_cronsim_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"pip install 'django-leader\[cron\]'"):
        Cron("0 3 * * *")
    assert Every(60).next(0) == 60_000
