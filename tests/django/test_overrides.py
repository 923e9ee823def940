"""The overrides of tests: how long each counts, what it survives, and that nothing is left of it."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_leader import elections, is_leader
from django_leader.testing import following, leading
from tests.support.servers import eventually

LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
TWO: dict[str, Any] = {"default": {}, "jobs": {}}
LONG = 20.0


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert is_leader() is False
    assert elections["default"].overridden is None


def test_the_newest_override_that_has_not_ended_counts() -> None:
    assert is_leader() is False
    with leading(token=7):
        assert is_leader() is True
        assert elections["default"].fencing_token == 7
        with following():
            assert is_leader() is False
        assert is_leader() is True


def test_an_override_needs_no_redis_and_starts_nothing() -> None:
    with override_settings(CACHES=LOCMEM), leading():
        assert is_leader() is True
        elections["default"].start()
        assert not elections["default"].running


def test_a_leader_does_not_resign_while_a_test_says_who_leads() -> None:
    with override_settings(LEADER_ELECTIONS={"default": {"LOCAL": True, "QUARANTINE": 0}}):
        election = elections["default"]
        election.start()
        assert election.wait_for_leadership(LONG)
        token = election.fencing_token
        with leading(token=7):
            assert election.resign() is False
            assert is_leader() is True
        assert election.fencing_token == token
        assert election.resign() is True
        assert is_leader() is False
        election.stop()


def test_an_election_that_is_not_configured_is_refused_and_leaves_nothing_behind() -> None:
    jobs = leading("jobs")
    with pytest.raises(ImproperlyConfigured, match=r"LEADER_ELECTIONS\['jobs'\]"), jobs:
        pytest.fail("not to be entered")
    with override_settings(LEADER_ELECTIONS=TWO):
        assert is_leader("jobs") is False
        with jobs:
            assert is_leader("jobs") is True
            assert is_leader() is False
        assert is_leader("jobs") is False


@pytest.mark.parametrize("changed", [{"CACHES": LOCMEM}, {"LEADER_ELECTIONS": TWO}])
def test_an_override_survives_changed_settings(changed: dict[str, Any]) -> None:
    with leading(token=7):
        assert is_leader() is True
        with override_settings(**changed):
            assert is_leader() is True
            assert elections["default"].fencing_token == 7
            elections["default"].start()
            assert not elections["default"].running
        assert is_leader() is True


@pytest.mark.parametrize("changed", [{"CACHES": LOCMEM}, {"LEADER_ELECTIONS": TWO}])
def test_an_override_may_begin_under_changed_settings_and_end_under_others(changed: dict[str, Any]) -> None:
    settings, override = override_settings(**changed), leading()
    settings.enable()
    with override:
        settings.disable()
        assert is_leader() is True
    assert is_leader() is False


def test_an_override_may_end_when_its_election_is_not_configured_any_more() -> None:
    with override_settings(LEADER_ELECTIONS=TWO):
        override = leading("jobs")
        override.__enter__()
    override.__exit__(None, None, None)
    with override_settings(LEADER_ELECTIONS=TWO):
        assert is_leader("jobs") is False


def test_an_election_that_the_application_has_kept_is_overridden_too() -> None:
    kept = elections["default"]
    with override_settings(CACHES=LOCMEM):
        assert elections["default"] is not kept
        with leading():
            assert kept.is_leader() is elections["default"].is_leader() is True
    assert kept.is_leader() is False


def test_elections_that_nobody_keeps_are_not_kept_for_overrides() -> None:
    with override_settings(CACHES=LOCMEM), leading():
        kept = weakref.ref(elections["default"])

    def forgotten() -> bool:
        gc.collect()  # does nothing while another thread, which an earlier test has left, does the same
        return kept() is None

    eventually(forgotten)


def test_one_override_can_be_used_again_nested_and_recursively() -> None:
    """As a context manager and as the decorator of a function that calls itself."""
    once = leading()

    @once
    def leads(depth: int) -> bool:
        return is_leader() and (depth == 0 or leads(depth - 1)) and is_leader()

    for _ in range(2):
        with once:
            with following(), once:
                assert is_leader() is True
            assert is_leader() is True
            assert leads(3)
        assert is_leader() is False
    assert leads(3)


class Stepper:
    """A thread in which functions are called one at a time, and waited for."""

    def __init__(self) -> None:
        self._todo: list[Callable[[], Any]] = []
        self._given, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._given.acquire() and self._todo:
            self._todo.pop()()
            self._done.release()

    def __call__(self, function: Callable[[], Any]) -> None:
        self._todo.append(function)
        self._given.release()
        assert self._done.acquire(timeout=LONG)

    def close(self) -> None:
        self._given.release()
        self._thread.join(LONG)


@pytest.fixture
def threads() -> Iterator[tuple[Stepper, Stepper]]:
    pair = Stepper(), Stepper()
    yield pair
    for thread in pair:
        thread.close()


def test_overrides_of_two_threads_that_interleave_leave_nothing_behind(threads: tuple[Stepper, Stepper]) -> None:
    (one, two), first, second = threads, leading(token=1), leading(token=2)
    one(first.__enter__)
    two(second.__enter__)
    assert elections["default"].fencing_token == 2
    one(lambda: first.__exit__(None, None, None))
    assert elections["default"].fencing_token == 2, "the second thread is still within"
    two(lambda: second.__exit__(None, None, None))
    assert is_leader() is False


def test_a_thread_that_leaves_a_shared_override_ends_its_own_use(threads: tuple[Stepper, Stepper]) -> None:
    """The use by the other thread goes on."""
    (one, two), shared = threads, leading()
    one(shared.__enter__)
    with following():
        two(shared.__enter__)
        assert is_leader() is True
        one(lambda: shared.__exit__(None, None, None))
        assert is_leader() is True, "the second thread's is newer than ours"
        two(lambda: shared.__exit__(None, None, None))
        assert is_leader() is False


def test_a_function_decorated_once_runs_in_two_threads(threads: tuple[Stepper, Stepper]) -> None:
    inside, leave = threading.Event(), threading.Event()

    @leading()
    def leads(wait: bool) -> None:
        inside.set()
        assert not wait or leave.wait(LONG)
        seen.append(is_leader())

    seen: list[bool] = []
    outer = threading.Thread(target=leads, args=[True])
    outer.start()
    assert inside.wait(LONG)
    threads[0](lambda: leads(False))
    assert is_leader() is True
    leave.set()
    outer.join(LONG)
    assert seen == [True, True]


def test_it_may_be_left_in_another_thread(threads: tuple[Stepper, Stepper]) -> None:
    shared = leading()
    threads[0](shared.__enter__)
    shared.__exit__(None, None, None)
    assert is_leader() is False


def test_a_forked_child_does_not_lead_but_may_override_for_itself() -> None:
    again = leading()
    with again:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                seen = [is_leader(), elections["default"].overridden is None]
                with again:
                    seen.append(is_leader())
                elections.reset()
                seen.append(elections["default"].overridden is None)
                again.__exit__(None, None, None)  # as the child would that leaves the block of its parent
                status = 42 if seen == [False, True, True, True] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        assert is_leader() is True
