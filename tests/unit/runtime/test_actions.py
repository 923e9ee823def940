"""What the election thread does when a decision has been overtaken."""

from __future__ import annotations

import contextlib
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from django_leader.protocol import machine
from django_leader.protocol.config import Config
from django_leader.protocol.records import Answer
from django_leader.redis.lease import Lease
from django_leader.runtime.diagnostics import Diagnostics
from django_leader.runtime.worker import QUEUE, Actions
from django_leader.system import clock
from django_leader.system.waker import Waker
from tests.support.invented_kernel import Kernel


def test_s08_nothing_is_released_when_the_lease_has_run_out_in_between() -> None:
    config, applied = Config().validate(), list[machine.AnyEvent]()
    with contextlib.closing(Waker()) as waker:
        nothing = cast(Lease, cast(Any, None))  # whatever is asked of it would raise
        actions = Actions(nothing, "a:0", config, waker, Diagnostics("a", config), 7, machine.State, applied.append)
        actions.do(machine.Plan("release"), 0.0)
    assert applied == [machine.Released()]


def test_who_is_woken_while_it_stops_does_not_campaign() -> None:
    config, applied, asked = Config().validate(), list[machine.AnyEvent](), list[str]()

    def wait(me: str, **options: Any) -> dict[str, Any]:
        asked.append("wait")
        return {"wake": True}

    lease = SimpleNamespace(server=dict, prepare=lambda *said: None, wait=wait)
    with contextlib.closing(Waker()) as waker:
        given = (cast(Lease, cast(Any, lease)), "a:0", config, waker, Diagnostics("a", config), 7)
        actions = Actions(*given, lambda: machine.State(stopping=True), applied.append)
        assert actions.do(machine.Plan("wait", clock.now() + 5, listen=True), 0.0) == 0.0
    assert (asked, applied) == (["wait"], [])


@pytest.mark.parametrize(
    ("candidates", "drawn", "waits"), [(2, 0.999, True), (QUEUE, 0.999, True), (1000, 0.0, True), (1000, 0.5, False)]
)
def test_of_many_followers_only_some_wait_for_a_wake_up(
    candidates: int, drawn: float, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = Config().validate(), list[bool]()
    held = Answer("held", 1, "b:0", 10.0, candidates, "", 0.0, "lease:1:2:3", 10.0)

    def look(*said: Any, wake: bool) -> Answer:
        seen.append(wake)
        return held

    def wait(me: str, *, wake: bool, until: float, exact: bool) -> None:
        seen.append(wake)

    monkeypatch.setattr(random, "random", lambda: drawn)
    lease = SimpleNamespace(
        server=dict, prepare=lambda *said: None, process="", campaign=lambda *said: held, poll=look, wait=wait
    )
    with contextlib.closing(Waker()) as waker:
        given = (cast(Lease, cast(Any, lease)), "a:0", config, waker, Diagnostics("a", config), 7)
        actions = Actions(*given, machine.State, lambda event: None)
        for plan in ("campaign", "wait", "poll"):
            actions.do(machine.Plan(cast(Any, plan), clock.now() + 5, listen=True), 0.0)
    assert seen == [waits, waits]


@pytest.mark.parametrize(
    ("candidates", "over_in", "with_it", "exact"),
    [(3, 9.0, True, False), (1000, 9.0, False, False), (1000, 5.1, False, True), (3, 1.0, False, True)],
)
def test_a_wait_is_part_of_the_poll_where_nothing_can_be_due(
    candidates: int, over_in: float, with_it: bool, exact: bool
) -> None:
    """Where something can be due, the wait ends exactly then."""
    config, seen = Config().validate(), dict[str, bool]()
    held = Answer("held", 1, "b:0", 9.0, candidates, "", 0.0, "lease:1:2:3", 10.0)

    def look(me: str, highest_token: int, until: float | None, **options: Any) -> Answer:
        seen["with it"] = until is not None
        return held

    def wait(me: str, *, exact: bool, **options: Any) -> None:
        seen["exact"] = exact

    lease = SimpleNamespace(server=dict, prepare=lambda *said: None, process="", poll=look, wait=wait)
    watch = machine.State().watch._replace(expires_at=clock.now() + over_in)
    state = machine.State(poll_suffices=True, watch=watch)
    with contextlib.closing(Waker()) as waker:
        given = (cast(Lease, cast(Any, lease)), "a:0", config, waker, Diagnostics("a", config), 7)
        actions = Actions(*given, lambda: state, lambda event: None)
        actions._candidates = candidates
        for plan in ("poll", "wait"):
            actions.do(machine.Plan(cast(Any, plan), clock.now() + 5, listen=True), 0.0)
    assert seen == {"with it": with_it, "exact": exact}


@pytest.mark.parametrize("leads", [False, True])
def test_s23_a_step_of_the_wall_clock_is_published(leads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config, kernel, published = Config().validate(), Kernel(pidfs=True), list[str]()
    kernel.install(monkeypatch)
    before, after, later = (
        kernel.me.identity._replace(booted=kernel.me.identity.booted + step).to_text() for step in (0, 1800, 5400)
    )
    lease: Any = SimpleNamespace(server=dict, process="", channel=SimpleNamespace(connected=False))
    lease.prepare, lease.wait = lambda *said: published.append(lease.process), lambda *said, **options: None
    state = machine.State(term=machine.Term(7, clock.now() + 60)) if leads else machine.State()
    with contextlib.closing(Waker()) as waker:
        given = (cast(Lease, lease), "a:0", config, waker, Diagnostics("a", config), 7)
        actions = Actions(*given, lambda: state, lambda event: None)

        def waits(step: float) -> str:
            kernel.booted += step
            actions.do(machine.Plan("wait", clock.now() + 5, listen=not leads), 0.0)
            return str(lease.process)

        actions.begin()
        assert [waits(step) for step in (0.0, 0.9, 0.9, 0.0)] == [before, before, after, after]
        kernel.limit = 0
        assert waits(3.6) == after, "what it is cannot be found out for now"
        kernel.limit = 1000
        assert waits(0.0) == later
    assert published == ([] if leads else [before, after, later]), "it is packed while there is time"
    assert kernel.descriptors == {}


def test_s23_an_unpublished_process_stays_so_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config, kernel = Config(same_host_takeover=False).validate(), Kernel(pidfs=True)
    kernel.install(monkeypatch)
    lease = SimpleNamespace(server=dict, process="", channel=SimpleNamespace(connected=False))
    with contextlib.closing(Waker()) as waker:
        given = (cast(Lease, cast(Any, lease)), "a:0", config, waker, Diagnostics("a", config), 7)
        actions = Actions(*given, machine.State, lambda event: None)
        actions.begin()
        kernel.booted += 3600
        actions.do(machine.Plan("wait", clock.now() + 5), 0.0)
    assert lease.process == ""
