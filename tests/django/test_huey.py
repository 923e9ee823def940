"""``django_leader.huey``: each minute of a periodic task once, in the leader.

The test of the how-to page has real consumers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pytest_django import Settings

from django_leader import LeaderElection, NotRun, elections, huey
from django_leader.huey import MINUTE, RUN_HUEY, Minutes, leading
from django_leader.runtime.runs import instant
from django_leader.testing import following, slots
from django_leader.testing import leading as led
from tests.support.servers import GENEROUS, eventually

NOON = datetime(2026, 5, 1, 12)  # noqa: DTZ001


class Scheduler:
    """What Huey has in each consumer."""

    def enqueue_periodic_tasks(self, ask: Callable[[datetime], bool], now: datetime) -> bool:
        return ask(now)


def read(validate: Callable[[datetime], bool], name: str = "tidy") -> Callable[..., bool]:
    """What Huey makes of a function: ``read_periodic`` calls ``validate_datetime`` of an object of the task's class."""

    def method_validate(self: Any, timestamp: datetime) -> bool:
        return validate(timestamp)

    made = type(name, (), {"validate_datetime": method_validate, "__module__": "my_app.tasks"})()
    return lambda at=None: made.validate_datetime(at or datetime.now(timezone.utc).replace(tzinfo=None))


def task(validate: Callable[[datetime], bool], name: str = "tidy") -> Callable[..., bool]:
    """A periodic task, which the scheduler of a consumer asks."""
    ask = read(validate, name)
    return lambda at=None: Scheduler().enqueue_periodic_tasks(ask, at)


def this_minute() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None, second=0, microsecond=0)


def always(at: datetime) -> bool:
    return True


def on(*due: datetime) -> Callable[[datetime], bool]:
    return lambda at: at.replace(second=0, microsecond=0) in due


def ms(at: datetime) -> int:
    return round(at.replace(tzinfo=timezone.utc).timestamp() * 1000)


@pytest.fixture(autouse=True)
def first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huey, "_told", set())
    monkeypatch.setattr(huey._candidates, "_threads", {})


@pytest.fixture
def local(settings: Settings) -> Iterator[None]:
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    yield
    elections.reset()


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def lead() -> None:
    elections[RUN_HUEY].start()
    assert elections[RUN_HUEY].wait_for_leadership(GENEROUS)


def test_a_minute_is_true_once_in_the_leader(
    local: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(huey, "MINUTE", 100)
    first, second = task(leading(always)), task(leading(always))
    assert not first()
    lead()
    eventually(lambda: first() or second(), "a minute is due", every=0)
    assert "of the job 'my_app.tasks.tidy' was not run: there is no record of the job" in caplog.text
    monkeypatch.setattr(huey, "MINUTE", 10**10)  # the last minute began months ago
    assert [first(), second(), task(leading(always), "other")()] == [False] * 3


class Answers:
    """Stands for the claims of a task."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reason: str = "") -> None:
        self.names: list[str] = []
        self._reason = reason
        monkeypatch.setattr(huey, "Claims", self._claims)

    def _claims(self, alias: str, job: Any) -> Any:
        assert (alias, job.grace) == (RUN_HUEY, 600), "the manual says ten minutes"
        self.names.append(job.name)
        return self

    def begin(self) -> Any:
        return NotRun(self._reason) if self._reason else lambda error: None


def test_the_name_of_the_record_is_that_of_the_task(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch)
    every_minute = leading(always)
    lead()
    tasks = task(every_minute), task(every_minute, "other"), task(lambda at: every_minute(at), "nested")
    assert [one() for one in tasks] == [True] * 3
    assert answers.names == ["my_app.tasks.tidy", "my_app.tasks.other", "my_app.tasks.nested"]


def test_a_minute_that_nobody_asked_for_is_made_up_for(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch)
    lead()
    now, minute = this_minute(), timedelta(minutes=1)
    assert task(leading(on(now - 5 * minute)))()
    assert not task(leading(on(now - 62 * minute)))()
    assert not task(leading(on(now + 2 * minute)))(), "nor one that is not due yet"


def test_j04_minutes_that_no_leader_asked_for_are_logged(local: None, caplog: pytest.LogCaptureFixture) -> None:
    """Only the last is enqueued, so the log names the others."""
    lead()
    first, second, third, last = (this_minute() - timedelta(minutes=back) for back in (9, 5, 4, 3))
    task(leading(on(first)))()
    assert "for the slots" not in caplog.text
    task(leading(on(first, second, third, last)))()  # as the next leader, which has not claimed the first one
    named = [instant(ms(one)) for one in (second, third)]
    text = "LEADER_ELECTIONS['command:run_huey']: for the slots from {} to {} the job 'my_app.tasks.tidy' was not run: "
    assert text.format(*named) + "no process has claimed them before a later one was due" in caplog.text


@pytest.mark.parametrize(("reason", "told"), [("missed", "before its grace was over"), ("done", "")])
def test_a_minute_that_is_not_enqueued_is_told(
    local: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: str, told: str
) -> None:
    Answers(monkeypatch, reason)
    lead()
    assert not task(leading(always))()
    warnings = [one.getMessage() for one in caplog.records if "of the job" in one.getMessage()]
    assert len(warnings) == bool(told)
    assert all(told in text for text in warnings)


def test_slots_are_the_minutes_that_the_function_names() -> None:
    noon, hour = ms(NOON), 60 * MINUTE
    minutes = Minutes(lambda at: at.minute == 0 and at.hour % 2 == 0)
    assert minutes.latest(noon) == minutes.latest(noon + 2 * hour - 1) == noon
    assert minutes.latest(noon - 1) == noon - 2 * hour
    assert minutes.next(noon + hour) == noon + 2 * hour
    assert noon < minutes.next(noon) <= noon + 2 * hour, "no later than the next one"
    assert minutes.recent(noon + hour) is None
    assert minutes.recent(noon + hour - 1) == noon


def test_before_a_slot_that_has_none_before_is_1970() -> None:
    rare = Minutes(on(NOON))
    assert rare.latest(ms(NOON)) == ms(NOON)
    assert rare.latest(ms(NOON) - 1) == MINUTE
    assert rare.latest(MINUTE - 1) == 0


def told(minutes: Minutes, at: datetime, now: int) -> bool:
    minutes.tell(at, now / 1000)
    return minutes.local


def test_the_times_of_huey_are_utc_or_local(berlin: None) -> None:
    minutes = Minutes(always)
    assert told(minutes, NOON + timedelta(hours=2), ms(NOON))
    assert not told(minutes, NOON, ms(NOON))


def test_an_hour_that_comes_twice_has_minutes_of_its_own(berlin: None) -> None:
    twice = datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001
    first = ms(datetime(2026, 10, 25, 0, 30))  # noqa: DTZ001
    second = first + 60 * MINUTE
    minutes = Minutes(on(twice))
    assert [told(minutes, twice, at) for at in (first, second)] == [True, True]
    assert (minutes.latest(first), minutes.latest(second)) == (first, second)


def test_a_scheduler_is_a_candidate_while_its_thread_lives(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huey, "is_test_process", lambda: False)
    monkeypatch.setattr("django_leader.decorators.is_test_process", lambda: False)
    ask, end = task(leading(lambda at: False)), threading.Event()

    def schedule() -> None:
        while not end.wait(0.01):
            ask()

    for _ in range(2):
        end.clear()
        scheduler = threading.Thread(target=schedule)
        scheduler.start()
        assert eventually(elections[RUN_HUEY].is_leader, "it leads")
        end.set()
        scheduler.join(GENEROUS)
        eventually(lambda: not elections[RUN_HUEY].running, "it is none any more")


def test_a_scheduler_starts_its_election_once(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that has no effect, as on a platform that supports no elections."""
    monkeypatch.setattr(huey, "is_test_process", lambda: False)
    starts: list[int] = []
    monkeypatch.setattr(LeaderElection, "start", lambda self: starts.append(1))
    ask = task(leading(always))
    assert [ask(), ask()] == [False, False]
    assert starts == [1]


def test_a_fault_does_not_reach_huey(
    local: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Answers(monkeypatch)
    lead()
    monkeypatch.setattr(answers, "begin", lambda: 1 / 0)
    assert not task(leading(always))()
    assert "the job 'my_app.tasks.tidy' was not started, because of a fault of this package" in caplog.text
    monkeypatch.setattr(answers, "begin", lambda: lambda error: 1 / 0)
    assert task(leading(always))(), "its slot is taken"


def test_another_election_is_only_asked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huey, "is_test_process", lambda: False)
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}, "own": {"LOCAL": True}}
    assert not task(leading(always, election="own"))()
    assert not elections["own"].running


def test_in_a_test_no_election_starts(local: None) -> None:
    assert not task(leading(always))()
    assert not elections[RUN_HUEY].running


def test_a_test_says_who_leads() -> None:
    ask = read(leading(on(NOON)))
    with led(RUN_HUEY):
        assert [ask(NOON), ask(NOON), ask(NOON + timedelta(minutes=1))] == [True, True, False]
        with slots(verdict="in-doubt"):
            assert not ask(NOON)
    with following(RUN_HUEY):
        assert not ask(NOON)


def test_without_a_task_of_huey_it_says_so_once(local: None, caplog: pytest.LogCaptureFixture) -> None:
    lead()
    ask = leading(always)
    assert [Scheduler().enqueue_periodic_tasks(ask, NOON) for _ in range(2)] == [False, False]
    assert caplog.text.count("leading() was not called by a task of Huey") == 1


def test_whoever_else_reads_the_tasks_is_no_candidate(
    local: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shell, or a page that shows what is due."""
    monkeypatch.setattr(huey, "is_test_process", lambda: False)
    ask = read(leading(always))
    assert [ask(), ask()] == [False, False]
    assert not elections[RUN_HUEY].running
    assert caplog.text.count("the scheduler of a Huey consumer has not called leading()") == 1


def test_whoever_else_reads_the_tasks_claims_no_minute(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that asks in the consumer that leads. Huey would enqueue nothing for it."""
    answers = Answers(monkeypatch)
    lead()
    assert not read(leading(always))()
    assert not answers.names
    assert task(leading(always))()


@pytest.mark.parametrize("election", ["other", RUN_HUEY])
def test_what_keeps_it_from_asking_is_logged_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, election: str
) -> None:
    settings.LEADER_ELECTIONS = {"default": {"LOCK_TTL": "x" if election == RUN_HUEY else 10}}
    monkeypatch.setattr(huey, "is_test_process", lambda: False)
    ask = task(leading(always, election=election))
    assert [ask(), ask()] == [False, False]
    assert [one.levelno for one in caplog.records].count(logging.ERROR) == 1
    assert ("there is no such election" if election == "other" else "LOCK_TTL is 'x'") in caplog.text


def fails(at: datetime) -> bool:
    raise KeyError(at.minute)


def test_a_schedule_that_raises_takes_no_other_down(local: None, caplog: pytest.LogCaptureFixture) -> None:
    """Huey asks all tasks before it enqueues any, and its scheduler ends when one raises."""
    lead()
    assert not task(leading(fails))()
    text = "the job 'my_app.tasks.tidy' was not started, because its schedule, the function in leading(), raised"
    [record] = [one for one in caplog.records if text in one.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[0] is KeyError


def test_a_schedule_that_raises_for_later_minutes_loses_none(local: None) -> None:
    """The next minute is searched when Redis has granted this one."""
    assert Minutes(fails).next(ms(NOON)) == ms(NOON) + MINUTE


def test_in_a_test_what_the_schedule_raises_is_raised() -> None:
    with led(RUN_HUEY), pytest.raises(KeyError):
        read(leading(fails))(NOON)


def test_what_is_no_schedule_is_refused() -> None:
    wrong: Any = leading
    with pytest.raises(TypeError, match="leading: 5 cannot be called; give a schedule of Huey"):
        wrong(5)
    with pytest.raises(TypeError, match="leading: election is None; give the alias of an election"):
        wrong(always, election=None)
