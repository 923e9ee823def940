"""Several questions at once."""

from __future__ import annotations

import threading

import pytest

from django_leader import Config, RedisUnavailable
from django_leader.redis.lease import Lease
from django_leader.runtime.local import Local
from django_leader.runtime.queries import AT_A_TIME, ask, ask_together, source
from django_leader.system.forks import Forked
from tests.support.servers import GENEROUS


def test_threads_that_connect_first_at_the_same_time_get_the_same() -> None:
    together, made = threading.Barrier(2, timeout=GENEROUS), list[Local]()

    def client() -> Local:
        together.wait()
        made.append(Local())
        return made[-1]

    connect = source(client)
    first, second = ask_together([connect, connect], GENEROUS)
    assert first is second is connect()
    assert len(made) == 2


def fail() -> int:
    raise LookupError("no answer")


def test_the_answers_are_in_the_order_of_the_questions() -> None:
    found = ask_together([lambda: 1, fail, lambda: 3], GENEROUS)
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], LookupError)
    assert ask_together([], GENEROUS) == []


def test_as_many_are_asked_at_a_time_as_there_may_be_threads() -> None:
    together = threading.Barrier(AT_A_TIME, timeout=GENEROUS)
    assert sorted(ask_together([together.wait] * AT_A_TIME, GENEROUS)) == list(range(AT_A_TIME))  # type: ignore[type-var]
    assert ask_together([lambda: 7] * (3 * AT_A_TIME), GENEROUS) == [7] * (3 * AT_A_TIME)


def test_what_is_not_answered_in_time_is_none() -> None:
    goes_on = threading.Event()
    try:
        assert ask_together([goes_on.wait] * (AT_A_TIME + 1), 0.05) == [None] * (AT_A_TIME + 1)
    finally:
        goes_on.set()


@pytest.mark.parametrize("number", [0, 1])
def test_it_asks_with_as_many_threads_as_can_be_started(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real, started = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if len(started) >= number:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert len(ask_together([lambda: 7] * 4, GENEROUS)) == 4
    assert ask_together([lambda: 7] * 4, GENEROUS) == [7] * 4


def test_a_question_that_a_child_has_inherited_is_to_be_asked_again() -> None:
    def forked(lease: Lease) -> None:
        raise Forked

    with pytest.raises(RedisUnavailable, match=r"^label: the connection was inherited through fork; ask again$"):
        ask(Local(), Config().validate(), "label", forked)
