"""What is made of a late wait."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from django_leader.system import starvation
from django_leader.system.starvation import ADVICE, Counts, Seen, cause, explain, read_counts
from tests.conftest import need

LATE = 2.0
NOTHING = Counts(0.0, 0.0, 0.0, 0, {}, {})


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(LATE, suspended=2.0), "suspended"),
        (Seen(LATE, suspended=2.0, queued=1.9, asked=1.9, green=True), "suspended"),
        (Seen(LATE, queued=1.9), "queued"),
        (Seen(LATE, queued=1.9, cpu=3.0, asked=0.9), "queued"),
        (Seen(LATE, queued=1.9, cpu=0.1, green=True), "queued"),
        (Seen(LATE, green=True, cpu=1.9), "greenlet"),
        # It has to share the CPU with another process.
        (Seen(LATE, green=True, cpu=0.6, queued=1.3), "greenlet"),
        (Seen(LATE, green=True, cpu=0.6, queued=0.5), "greenlet"),
        (Seen(LATE, green=True, cpu=0.1), "blocked"),
        # Greenlets wait for many things, so their waits are no sign of the GIL.
        (Seen(LATE, green=True, cpu=0.1, asked=9.0), "blocked"),
        (Seen(LATE, asked=1.9, cpu=2.0, busiest=1.9), "call"),
        # The others have computed before the call began, or the call had to share the CPU with another process.
        (Seen(LATE, asked=1.9, cpu=6.0, busiest=2.1), "call"),
        (Seen(LATE, asked=1.9, cpu=0.6, busiest=0.5), "call"),
        (Seen(LATE, asked=1.9, cpu=6.0, busiest=0.1), "threads"),
        (Seen(LATE, asked=1.9, cpu=0.2, busiest=0.2), "asleep"),
        (Seen(LATE, rested=False, asked=1.9, cpu=0.2, busiest=0.2), "asleep"),
        (Seen(LATE, asked=0.02), "stopped"),
        (Seen(LATE, asked=0.02, cpu=2.0, busiest=2.0), "stopped"),
        (Seen(LATE, asked=0.6, queued=0.6), "unknown"),
        (Seen(LATE, rested=False, asked=0.02), "slow"),
        (Seen(LATE, rested=False, green=True, asked=0.02), "slow"),
    ],
)
def test_the_cause_is_that_on_which_half_of_the_delay_falls(seen: Seen, expected: str) -> None:
    assert cause(seen) == expected


def explained(after: Counts) -> tuple[str, str]:
    return explain(NOTHING, after, LATE, rested=True)


def test_the_thread_with_the_most_cpu_is_named() -> None:
    places = {1: " (the first)", 2: " (the second)"}
    asked = Counts(0.0, 0.0, 2.0, 400, {1: 0.1, 2: 1.9}, places)
    assert [" (the second)" in word for word in explained(asked)] == [False, True]
    found, advice = explained(asked._replace(threads={1: 0.1}))
    assert (found, " (the" in advice) == ("call", False), "it has ended"


def test_where_a_thread_is_can_be_read() -> None:
    counts = read_counts(late=True)
    need(counts, "a kernel that counts how its threads wait")
    assert counts
    place = counts.places[threading.get_native_id()]
    assert "(thread 'MainThread', _places in " in place
    assert f"called by test_where_a_thread_is_can_be_read in {__file__}:" in place
    assert counts.threads[threading.get_native_id()] > 0.0


@pytest.mark.parametrize(("times", "words"), [(42, "CPU time (its container's limit has stopped it 42 times"), (0, "")])
def test_a_cpu_limit_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int, words: str) -> None:
    (tmp_path / "cpu.stat").write_text(f"nr_periods 100\nnr_throttled {times}\nthrottled_usec 9000000\n")
    monkeypatch.setattr(starvation, "CPU_STAT", (str(tmp_path / "none"), str(tmp_path / "cpu.stat")))
    found, advice = explained(NOTHING._replace(queued=1.9))
    assert found == "queued"
    assert words in advice
    assert ("(" in advice) == bool(times)


def test_where_the_kernel_does_not_count_the_advice_is_general(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starvation, "_read", lambda path: "0 0 0\n")
    assert read_counts(late=False) is None
    monkeypatch.setattr(starvation, "_read", Path("/nowhere").joinpath)
    assert read_counts(late=False) is None
    for counts in ((None, NOTHING), (NOTHING, None)):
        assert explain(counts[0], counts[1], LATE, rested=True) == ("unknown", ADVICE["unknown"])
        assert explain(counts[0], counts[1], LATE, rested=False) == ("slow", ADVICE["slow"])
