"""What ``handovers`` does hundreds of times, once; and that it would find what it looks for."""

from __future__ import annotations

import pytest

from tests.process.handovers import FAULTS, Book, passed_on, table


@pytest.mark.timeout(600)
def test_each_slot_is_run_once_or_told_of_across_all_faults() -> None:
    result = passed_on(list(FAULTS), seed=1)
    assert result.problems == []
    assert sum(number for (_, fate), number in result.slots.items() if fate == "run") >= len(FAULTS)
    assert result.handovers.total() == len(FAULTS)
    assert len(table([result])) == len(FAULTS) + 3


def entry(slot: int, outcome: str, since: int | None = None) -> dict[bytes, bytes]:
    """One of the stream."""
    more = {} if since is None else {b"since": b"%d" % (since * 1000)}
    return {b"slot": b"%d" % (slot * 1000), b"outcome": outcome.encode(), **more}


def book(*runs: int) -> Book:
    """One of a fleet that has run these slots."""
    made = Book()
    for slot in runs:
        made.ran(slot)
    return made


def test_a_slot_that_was_run_twice_is_found() -> None:
    assert book(5, 6, 6, 7).problems() == ["the slot 6 was run 2 times"]


def test_a_slot_that_was_left_out_in_silence_is_found() -> None:
    made = book(5, 8)
    made.read([entry(6, "missed"), entry(7, "ok")])
    assert made.problems() == ["the slot 7 was not run, and nothing says why"]


def test_an_entry_accounts_for_the_slots_since() -> None:
    made = book(5, 9)
    made.read([entry(8, "missed", since=5)])
    assert made.problems() == []
    assert [made.why_not(slot) for slot in (6, 7, 8)] == ["missed"] * 3


def test_a_record_that_was_lost_excuses_nothing_that_was_known() -> None:
    made = book(5, 7)
    made.lost()
    made.ran(9)
    made.read([entry(8, "unknown", since=0)])
    assert made.problems() == ["the slot 6 was not run, and nothing says why"]
