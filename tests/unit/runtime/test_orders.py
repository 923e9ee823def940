"""How a process gives an order and waits: against answers that are made up, and in invented time."""

from __future__ import annotations

from typing import Any

import pytest

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.orders import Look, Order
from django_leader.runtime.orders import LONGEST_PAUSE, TRIES, Carried, run_now
from django_leader.system import clock

SEEN = Look(1_800_000_000.0, "web-1:0000000000000000", 7, "", 0, "", 0.0, "")
AWAY = RedisUnavailable("away")


class Asked:
    """An election whose leader's answers are known before. The last one is repeated."""

    def __init__(self, *states: str | Look | Exception, given: Any = "given") -> None:
        self.config = Config(lock_ttl=10).validate()
        self.states, self.given, self.now = list(states), given, 100.0
        self.looks: list[tuple[float, bool]] = []
        self.gave: list[tuple[Order, float]] = []
        self.pauses: list[float] = []

    def look(self, order_id: str, *, withdraw: bool = False) -> Look:
        self.looks.append((self.now, withdraw))
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Look):
            return found
        return SEEN._replace(state="withdrawn" if withdraw and found == "waiting" else found)

    def give(self, order: Order, seen: Look, not_after: float) -> str:
        self.gave.append((order, not_after))
        if isinstance(self.given, Exception):
            raise self.given
        return str(self.given)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += max(seconds, 1e-9)

    def run(self, monkeypatch: pytest.MonkeyPatch, timeout: float = 60.0) -> Carried:
        monkeypatch.setattr(clock, "now", lambda: self.now)
        election: Any = self
        return run_now(election, "job", "anna", timeout, self.sleep)


def test_an_order_may_be_begun_within_one_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", "waiting", "taken", "ok")
    carried = asked.run(monkeypatch)
    [(order, not_after)] = asked.gave
    assert (carried.outcome, carried.order, not_after) == ("ok", order, SEEN.at + 10)
    assert (order.name, order.by, len(order.order_id)) == ("job", "anna", 32)
    assert [withdraw for _, withdraw in asked.looks] == [False] * 4


def test_an_order_that_nobody_takes_is_withdrawn_after_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", "waiting")
    assert asked.run(monkeypatch).outcome == "withdrawn"
    assert 110 <= asked.now <= 110 + LONGEST_PAUSE
    assert [withdraw for _, withdraw in asked.looks].count(True) == 1


def test_an_order_is_withdrawn_at_the_end_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", "waiting")
    assert asked.run(monkeypatch, 2.0).outcome == "withdrawn"
    assert asked.now == pytest.approx(102)


@pytest.mark.parametrize("change", [{"holder": "", "token": 0}, {"token": 8}])
def test_an_order_is_withdrawn_when_the_leader_changes(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", SEEN._replace(state="waiting", **change), "waiting")
    assert asked.run(monkeypatch).outcome == "withdrawn"
    assert asked.now < 101


@pytest.mark.parametrize(("state", "outcome"), [("taken", "running"), ("", "unknown")])
def test_what_is_open_at_the_end_of_the_timeout_is_not_known(
    state: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked("", state)
    assert asked.run(monkeypatch).outcome == outcome
    assert asked.now == pytest.approx(160)
    assert max(asked.pauses) == LONGEST_PAUSE


def test_another_look_is_taken_if_the_leader_has_just_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", given="changed")
    assert asked.run(monkeypatch).outcome == "nobody-leads"
    assert len({order.order_id for order, _ in asked.gave}) == 1
    assert len(asked.gave) == TRIES


def test_what_cannot_be_asked_at_first_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(AWAY)
    with pytest.raises(RedisUnavailable):
        asked.run(monkeypatch)
    assert asked.gave == []


def test_an_order_whose_answer_is_lost_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", AWAY, "waiting", "overlapped", given=AWAY)
    assert asked.run(monkeypatch).outcome == "overlapped"
    assert len(asked.gave) == 1


def test_redis_that_is_away_to_the_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked("", AWAY)
    with pytest.raises(RedisUnavailable):
        asked.run(monkeypatch)
    assert asked.now == pytest.approx(160)
