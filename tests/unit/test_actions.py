"""What the election thread does when a decision has been overtaken."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

from django_leader import clock, machine
from django_leader.actions import Actions
from django_leader.advice import Advice
from django_leader.channel import Waker
from django_leader.config import Config
from django_leader.lease import Lease


def test_s08_nothing_is_released_when_the_lease_has_run_out_in_between() -> None:
    config, applied = Config().validate(), list[machine.AnyEvent]()
    with contextlib.closing(Waker()) as waker:
        nothing = cast(Lease, cast(Any, None))  # whatever is asked of it would raise
        actions = Actions(nothing, "a:0", config, waker, Advice("a", config), 7, machine.State, applied.append)
        actions.do(machine.Plan("release"), 0.0)
    assert applied == [machine.Released()]


def test_who_is_woken_while_it_stops_does_not_campaign() -> None:
    config, applied, asked = Config().validate(), list[machine.AnyEvent](), list[str]()

    def wait(me: str, **options: Any) -> dict[str, Any]:
        asked.append("wait")
        return {"wake": True}

    lease = SimpleNamespace(server=dict, prepare=lambda *said: None, wait=wait)
    with contextlib.closing(Waker()) as waker:
        given = (cast(Lease, cast(Any, lease)), "a:0", config, waker, Advice("a", config), 7)
        actions = Actions(*given, lambda: machine.State(stopping=True), applied.append)
        assert actions.do(machine.Plan("wait", clock.now() + 5, listen=True), 0.0) == 0.0
    assert (asked, applied) == (["wait"], [])
