"""SIGTERM where no real process shows it. The others are in tests/process/test_stop.py."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from django_leader.sigterm import Sigterm


def test_where_no_signal_can_be_handled_an_election_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sub-interpreter, as Apache's mod_wsgi makes them."""

    def refuse(*args: Any) -> None:
        raise ValueError("signal only works in main thread of the main interpreter")

    sigterm = Sigterm(ask=lambda: None, busy=lambda: False, here=lambda: False)
    with monkeypatch.context() as here:
        here.setattr(signal, "signal", refuse)
        sigterm.chain()
        sigterm.after_fork()


def test_nothing_of_ours_keeps_the_handler_of_before_from_being_called() -> None:
    def broken() -> None:
        raise RuntimeError("set changed size during iteration")

    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        Sigterm(ask=broken, busy=lambda: True, here=lambda: False).chain()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [signal.SIGTERM]
