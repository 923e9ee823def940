"""``@leader_only`` and ``assert_leader()``: who runs, who does not, and what cannot be guarded."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from unittest import mock

import pytest
from pytest_django import Settings

from django_leader import (
    LeaderError,
    NotLeader,
    NotRun,
    UnknownElection,
    assert_leader,
    elections,
    is_leader,
    leader_only,
)
from django_leader.testing import following, leading
from tests.support.servers import GENEROUS


@pytest.fixture(autouse=True)
def two_elections(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}, "reports": {"LOCAL": True}}


@leader_only
def add(first: int, second: int = 2) -> int:
    """Add."""
    return first + second


@leader_only("reports")
async def report(name: str) -> str:
    return name


def test_a_function_runs_where_its_process_leads() -> None:
    with leading():
        assert add(1, second=4) == 5
    assert add(1) == NotRun("not-leading")
    with leading("reports"):
        assert not add(1)


def test_a_skip_is_false_and_says_why() -> None:
    skipped = add(1)
    assert isinstance(skipped, NotRun)
    assert (bool(skipped), skipped.reason, repr(skipped)) == (False, "not-leading", "NotRun(reason='not-leading')")


def test_a_coroutine_function_is_asked_when_it_begins_to_run() -> None:
    with leading("reports"):
        assert asyncio.run(report("x")) == "x"
        coroutine = report("x")
    assert asyncio.run(coroutine) == NotRun("not-leading")
    assert inspect.iscoroutinefunction(report)


def test_what_a_skip_returns_may_be_chosen() -> None:
    @leader_only(default=None)
    def nothing() -> int:
        return 1

    @leader_only(election="reports", default=0)
    async def number() -> int:
        return 1

    assert nothing() is None
    assert asyncio.run(number()) == 0


def test_it_stays_the_function_that_it_was() -> None:
    assert add.__name__ == "add"
    assert add.__doc__ == "Add."
    assert str(inspect.signature(add)) == "(first: 'int', second: 'int' = 2) -> 'int'"


class Jobs:
    @leader_only
    def method(self, number: int) -> int:
        return number

    @staticmethod
    @leader_only
    def static(number: int) -> int:
        return number

    @classmethod
    @leader_only
    def of_class(cls, number: int) -> tuple[type, int]:
        return cls, number

    def plain(self) -> str:
        return "plain"

    def generator(self) -> Iterator[int]:
        yield 1

    async def asynchronous_generator(self) -> AsyncIterator[int]:
        yield 1


def test_methods_of_every_kind_stay_methods() -> None:
    assert not Jobs().method(3)
    with leading():
        assert (Jobs().method(3), Jobs.static(3), Jobs.of_class(3)) == (3, 3, (Jobs, 3))
        assert leader_only(Jobs().plain)() == "plain"


def test_what_it_raises_is_raised() -> None:
    @leader_only
    def fails() -> None:
        raise ZeroDivisionError

    with leading(), pytest.raises(ZeroDivisionError):
        fails()


class Task(NamedTuple):
    """As ``django.tasks`` has it: an object that holds the function, and has it called in a worker."""

    func: Any

    def __call__(self) -> None: ...


def registered(function: Any) -> Any:
    function.register = lambda: function
    return function


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Jobs, "it is a class; decorate its methods"),
        (Jobs.generator, "it is a generator function, so its body would run after the check"),
        (Jobs.asynchronous_generator, "it is a generator function, so its body would run after the check"),
        (functools.partial(Jobs.generator, Jobs()), "it is a functools.partial; write a function that makes the call"),
        (staticmethod(Jobs.plain), "write @leader_only below @staticmethod"),
        (classmethod(Jobs.plain), "write @leader_only below @classmethod"),  # type: ignore[arg-type]
        (
            Task(Jobs.plain),
            "it is an object of .*Task, which its own framework would call unguarded; write @leader_only",
        ),
        (mock.MagicMock(), "it is an object of unittest.mock.MagicMock"),
        (registered(lambda: None), "its attribute register leads to the unguarded function; write @leader_only below"),
    ],
)
def test_what_cannot_be_guarded_is_refused_where_it_is_written(target: Any, why: str) -> None:
    for decorate in (leader_only, leader_only("reports")):
        with pytest.raises(TypeError, match=f"^leader_only: .* cannot be guarded: {why}"):
            decorate(target)


@pytest.mark.parametrize("wrong", [5, None, ("default",), property(lambda self: 1)])
def test_what_is_no_alias_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"leader_only: election is .*; give the alias of an election, or a function"):
        leader_only(wrong)


def test_a_task_of_celery_is_guarded_below_its_decorator_only() -> None:
    pytest.importorskip("celery", reason="celery is not installed")  # it is, where the servers are
    from celery import Celery, shared_task

    for make in (Celery(set_as_current=False).task, shared_task(name="of a test")):
        with pytest.raises(TypeError, match=r"it is an object of celery\.local.*; write @leader_only below"):
            leader_only(make(add))
    task = Celery(set_as_current=False).task(leader_only(default=None)(Jobs.static))
    assert task() is None


def test_a_task_of_huey_is_guarded_below_its_decorator_only() -> None:
    pytest.importorskip("huey", reason="huey is not installed")
    from huey import MemoryHuey

    huey = MemoryHuey(immediate=True)
    with pytest.raises(TypeError, match=r"it is an object of huey\.api\.TaskWrapper.*; write @leader_only below"):
        leader_only(huey.task()(lambda: None))
    with leading():
        assert huey.task()(add)(1, 2).get() == 3


def test_an_unknown_alias_fails_when_the_function_is_called() -> None:
    @leader_only("nowhere")
    def job() -> None: ...

    with pytest.raises(UnknownElection, match="'nowhere'"):
        job()


def test_a_skip_is_silent_but_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    is_leader()  # says once why this process is no candidate
    caplog.clear()
    with caplog.at_level(logging.INFO, "django_leader"):
        add(1)
    assert caplog.text == ""
    with caplog.at_level(logging.DEBUG, "django_leader"):
        add(1)
    [record] = caplog.records
    text = "LEADER_ELECTIONS['default']: add was not run, because this process does not lead"
    assert (record.levelno, record.getMessage()) == (logging.DEBUG, text)


def test_assert_leader_returns_the_term() -> None:
    with leading(token=7):
        term = assert_leader()
        assert term.token == 7
        term.raise_if_lost()
    assert not term.is_current()


def test_assert_leader_names_the_election_and_what_to_do() -> None:
    with leading(), following("reports"), pytest.raises(NotLeader) as error:
        assert_leader("reports")
    name = elections["reports"].instance_id
    assert str(error.value).startswith(f"LEADER_ELECTIONS['reports']: this process ({name}) does not lead; it is no")
    assert "Call this in the process that leads: behind is_leader(), in a function under @leader_only" in str(
        error.value
    )
    assert isinstance(error.value, LeaderError), "what catches Exception sees it, as a request does"
    with pytest.raises(UnknownElection):
        assert_leader("nowhere")


def test_assert_leader_in_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    election = elections["default"]
    election.start()
    try:
        assert election.wait_for_leadership(GENEROUS)
        term = assert_leader()
        assert term.token == election.fencing_token
        assert election.resign()
        assert term.lost.wait(GENEROUS)
        with pytest.raises(NotLeader, match=r"does not lead; no process is known to lead now\. Call"):
            assert_leader()
        monkeypatch.setattr(type(election), "seen_leader", "web-2")
        with pytest.raises(NotLeader, match=r"does not lead; web-2 does\. Call"):
            assert_leader()
    finally:
        election.stop()


def test_any_thread_may_ask_its_term() -> None:
    with leading():
        term = assert_leader()
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(term.is_current()))
        thread.start()
        thread.join()
    assert seen == [True]
