"""Log handlers that raise, block or take long."""

from __future__ import annotations

import logging
import threading

import pytest

from django_leader.protocol import machine
from tests.redis.conftest import Make
from tests.support.servers import GENEROUS, eventually


class Fails(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise ValueError("a broken handler")


class Blocks(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def handle(self, record: logging.LogRecord) -> bool:
        return self.end.wait(GENEROUS)


def test_s17_a_log_handler_that_raises_ends_nothing(make: Make) -> None:
    handler, logger, lost = Fails(), logging.getLogger("django_leader"), threading.Event()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        election = make()
        election.on_lose_leadership(lost.set)
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        election.resign()
        assert lost.wait(GENEROUS)
        assert election.wait_for_leadership(GENEROUS)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_s20_a_log_handler_that_blocks_does_not_hold_up_a_stop(make: Make) -> None:
    handler, logger = Blocks(), logging.getLogger("django_leader")
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    thread = threading.Thread(target=election.resign)
    try:
        thread.start()
        eventually(lambda: not election.is_leader())
        assert election.lease_left == 0
        candidacy = election._candidacy
        assert candidacy
        assert candidacy.shared.changed.acquire(timeout=GENEROUS)
        candidacy.shared.changed.release()
    finally:
        handler.end.set()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        thread.join()


def test_nothing_is_logged_while_an_event_is_applied(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    real, inside = candidacy.shared._apply_one, list[bool]()

    def apply_one(event: machine.AnyEvent) -> None:
        real(event)
        if isinstance(event, machine.Resign):
            election.stop()  # as from a handler that interrupts this thread

    def note(record: logging.LogRecord) -> bool:
        inside.append(candidacy.shared.applying == threading.get_ident())
        return True

    candidacy.shared._apply_one = apply_one  # type: ignore[method-assign]
    caplog.handler.addFilter(note)
    with caplog.at_level(logging.INFO, "django_leader"):
        election.resign()
        eventually(lambda: candidacy.shared.ended)
        assert "lost leadership: resigned" in caplog.text
    assert not any(inside)
