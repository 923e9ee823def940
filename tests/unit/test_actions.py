"""What the election thread does when a decision has been overtaken."""

from __future__ import annotations

import contextlib
from typing import Any, cast

from django_leader import machine
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
