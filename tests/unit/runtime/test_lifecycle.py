"""What happens to the elections of a process, where no real process shows it. The others are in tests/process."""

from __future__ import annotations

from typing import Any

import pytest

from django_leader.runtime.lifecycle import Lifecycle


class Stubborn:
    """An election that can be told nothing if it has an error to raise."""

    def __init__(self, label: str, error: Exception | None) -> None:
        self.label, self.error, self.running, self.resumed = label, error, True, False

    def ask_to_stop(self) -> None:
        if self.error:
            raise self.error
        self.running = False

    def resume(self) -> None:
        if self.error:
            raise self.error
        self.resumed = True


def test_an_election_that_fails_to_stop_keeps_no_other_from_stopping() -> None:
    lifecycle = Lifecycle()
    found: list[Any] = [Stubborn("a", None), Stubborn("b", LookupError()), Stubborn("c", None)]
    for election in found:
        lifecycle.add(election)
    lifecycle.sigterm._ask()
    assert [election.running for election in found] == [False, True, False]


def test_an_election_that_cannot_start_again_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    lifecycle = Lifecycle()
    found: list[Any] = [Stubborn("a", None), Stubborn("b", LookupError("hunter2")), Stubborn("c", None)]
    for election in found:
        lifecycle.add(election)
    lifecycle.sigterm._resume()
    assert [election.resumed for election in found] == [True, False, True]
    [record] = caplog.records
    assert record.getMessage().startswith("b: could not start again after SIGTERM: LookupError in _resume (")
    assert record.levelname == "ERROR"
    assert "hunter2" not in caplog.text
