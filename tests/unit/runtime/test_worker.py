"""The worker where no real process shows it: what it publishes of its process, and whose errors are whose."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from django_leader.protocol import machine
from django_leader.protocol.config import Config, ValidConfig
from django_leader.protocol.session import Wait
from django_leader.runtime.hooks import Hooks
from django_leader.runtime.listeners import Listeners
from django_leader.runtime.local import Local, open_lease
from django_leader.runtime.state import SharedState
from django_leader.runtime.term_log import TermLog
from django_leader.runtime.worker import Worker
from django_leader.system.forks import Forked
from django_leader.system.waker import Waker
from tests.support.invented_kernel import Kernel


def make(config: ValidConfig, waker: Waker) -> Worker:
    log = TermLog("test", "test", "a")
    told: dict[str, Any] = {"feed": pytest.fail, "delivered": pytest.fail}
    shared = SharedState(config, "a:0", "test", Listeners(lambda: None), lambda grant: None, log, **told)
    return Worker(open_lease(Local(), config, waker), shared, config, waker, Hooks())


def test_s23_a_step_of_the_wall_clock_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(pidfs=True)
    kernel.install(monkeypatch)
    before, after, later = (
        kernel.me.identity._replace(booted=kernel.me.identity.booted + step).to_text() for step in (0, 1800, 5400)
    )
    with contextlib.closing(Waker()) as waker:
        worker = make(Config().validate(), waker)

        def waits(step: float) -> str:
            kernel.booted += step
            worker._wait(Wait(0.0))
            return worker.session.process

        worker.begin()
        assert [waits(step) for step in (0.0, 0.9, 0.9, 0.0)] == [before, before, after, after]
        kernel.limit = 0
        assert waits(3.6) == after, "what it is cannot be found out for now"
        kernel.limit = 1000
        assert waits(0.0) == later
    assert kernel.descriptors == {}


def test_s23_a_process_without_take_over_is_never_published(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(pidfs=True)
    kernel.install(monkeypatch)
    with contextlib.closing(Waker()) as waker:
        worker = make(Config(same_host_takeover=False).validate(), waker)
        worker.begin()
        kernel.booted += 3600
        worker._wait(Wait(0.0))
        assert worker.session.process == ""


def test_nothing_is_released_from_another_thread_without_a_connection() -> None:
    with contextlib.closing(Waker()) as waker:
        worker = make(Config().validate(), waker)
        worker._shared.state = machine.State(stopping=True)
        worker.release()
        assert not worker.runs_here()


class Failing(Hooks):
    """Note what could not be done."""

    def __init__(self) -> None:
        self.seen: list[BaseException | str] = []

    def failed(self, error: BaseException | str, *, unexpected: bool = False) -> None:
        self.seen.append(error)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), Forked()])
def test_an_error_in_a_release_from_another_thread_is_not_the_callers(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """That thread belongs to the application. The election thread tries the release again, or the lease runs out."""

    def fail() -> None:
        raise error

    with contextlib.closing(Waker()) as waker:
        worker, hooks = make(Config().validate(), waker), Failing()
        worker._hooks = hooks
        lease: Any = SimpleNamespace(channel=SimpleNamespace(connected=True))
        worker.lease = lease
        monkeypatch.setattr(machine, "plan", lambda *_: machine.Plan("release"))
        monkeypatch.setattr(worker, "_act", fail)
        worker.release()
        assert hooks.seen == [error]
        assert not worker.runs_here()
        assert worker._io_lock.acquire(blocking=False), "it is free again"


def test_s19_no_turn_is_taken_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Waker()) as waker:
        worker = make(Config().validate(), waker)
        monkeypatch.setattr(worker._shared, "ours", lambda: False)
        monkeypatch.setattr(worker, "_turn", lambda: pytest.fail("it is the parent's"))
        worker.run("test")
