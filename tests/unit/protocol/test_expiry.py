"""When a state is over: by our own watch, or by a server's clock that was seen to be steady."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_leader.protocol.expiry import RESOLUTION, ExpiryProof
from django_leader.protocol.records import Answer

MARGIN = 0.2
PAUSE = 4.0
SPAN = 10.0


def polled(version: str, server: float, remaining: float, verdict: str = "held", span: float = SPAN) -> Answer:
    return Answer(verdict, 1, "other:1", remaining, 3, "", server, version, span)


def watched(*polls: tuple[float, Answer], took: float = 0.002) -> ExpiryProof:
    watch = ExpiryProof()
    for asked_at, answer in polls:
        watch = watch.observe(asked_at, answer, asked_at + took, PAUSE)
    return watch


def test_nothing_is_over_before_the_first_poll() -> None:
    assert ExpiryProof().expired_version(1e12) == ""
    assert ExpiryProof().server_time(5.0, upper=True) == 0.0


def test_s12_who_has_just_come_watches_a_state_for_its_whole_span() -> None:
    watch = watched(
        (100.0, polled("a", 5000.0, 3.0)), (102.0, polled("a", 5002.0, 1.0)), (104.0, polled("a", 5004.0, -1.0))
    )
    assert watch.expires_at == 100.002 + SPAN
    assert watch.expired_version(110.0) == ""
    assert watch.expired_version(110.01) == "a"


def test_s12_a_steady_clock_is_trusted_about_a_newer_state() -> None:
    """One that was set since the last poll."""
    watch = watched((100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0, 8.5)))
    assert watch.expires_at == pytest.approx(102.002 + 8.5)


def test_s12_a_state_lasts_its_duration_from_the_last_poll_before_it() -> None:
    """At least: from the last poll that saw another state."""
    watch = watched((100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0, 8.0)))
    assert watch.expires_at == pytest.approx(102.002 + 8.0)
    # As after two steps of the clock, there and back, between the polls: it says that the state is over.
    watch = watched((100.0, polled("a", 5000.0, 12.0)), (102.0, polled("b", 5002.0, -1.9, span=3.0)))
    assert watch.expires_at == pytest.approx(102.002 + 3.0), (
        "a state that was set before the last poll cannot be another"
    )


@pytest.mark.parametrize("jump", [-3600.0, -1.0, -0.11, 0.11, 1.0, 3600.0])
def test_s12_a_clock_that_has_jumped_is_not_believed(jump: float) -> None:
    watch = watched((100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0 + jump, 8.5)))
    assert watch.expires_at == pytest.approx(102.002 + SPAN)


def test_s12_the_margin_of_a_holders_shorter_lease_counts() -> None:
    short = polled("b", 5002.0 + 0.05, 0.3, span=0.5)
    assert watched((100.0, polled("a", 5000.0, 9.0)), (102.0, short)).expires_at == pytest.approx(102.002 + 0.5)


def test_s12_an_old_poll_does_not_prove_that_a_clock_is_steady() -> None:
    """The clock may have been set and set back meanwhile."""
    watch = watched((100.0, polled("a", 5000.0, 9.0)), (105.0, polled("b", 5005.0, 0.1)))
    assert watch.expires_at == pytest.approx(105.002 + SPAN)


def test_s12_after_the_next_change_the_clock_is_believed_again() -> None:
    watch = watched(
        (100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 9002.0, 8.5)), (104.0, polled("c", 9004.0, 9.9))
    )
    assert watch.expires_at == pytest.approx(104.002 + 9.9)


def test_s12_a_slow_answer_says_too_little_about_the_clock() -> None:
    watch = watched((100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0, 8.5)), took=0.11)
    assert watch.expires_at == pytest.approx(102.11 + SPAN)


@pytest.mark.parametrize("verdict", ["held", "expired", "quarantined"])
@pytest.mark.parametrize("back", [1.4, 0.11, 60.0])
def test_s12_a_clock_seen_going_back_and_forth_is_not_trusted(back: float, verdict: str) -> None:
    """The state was set while the clock was back, so what is left of it seems less than it is by so much."""
    first, seen_back = (100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0 - back, 9.5, verdict))
    forth = (104.0, polled("b", 5004.0, 9.5 - 2.0 - back, verdict))
    assert watched(first, seen_back, forth).expires_at == pytest.approx(102.002 + SPAN)


def test_s12_what_a_slow_answer_did_not_show_a_later_one_cannot_show() -> None:
    """The clock may have gone back and forth within the time of the slow answer."""
    watch = ExpiryProof()
    for asked_at, answer, took in (
        (100.0, polled("a", 5000.0, 9.0), 0.002),
        (102.0, polled("b", 5002.0, 8.5), 1.5),
        (104.0, polled("b", 5004.0, 6.5), 0.002),
    ):
        watch = watch.observe(asked_at, answer, asked_at + took, PAUSE)
    assert watch.expires_at == pytest.approx(103.5 + SPAN)
    assert not watch.steady


def test_a_late_or_foreign_answer_says_nothing_about_the_state() -> None:
    for verdict in ("late", "foreign"):
        watch = watched((100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0, 0.0, verdict)))
        assert watch.expires_at == pytest.approx(102.002 + SPAN)


def test_what_was_proved_once_stays_proved() -> None:
    watch = watched(
        (100.0, polled("a", 5000.0, 9.0)), (102.0, polled("b", 5002.0, 8.5)), (104.0, polled("b", 6000.0, -999.0))
    )
    assert watch.expires_at == pytest.approx(102.002 + 8.5)


def test_the_servers_time_is_told_at_the_latest() -> None:
    assert watched((100.0, polled("a", 5000.0, 9.0))).server_time(103.0, upper=True) == pytest.approx(
        5003.0 + RESOLUTION
    )
    assert watched((100.0, polled("a", 5000.0, 9.0))).server_time(103.0, upper=False) == pytest.approx(5003.0 - 0.002)


def play(history: Iterable[tuple[str, float, float, float, float]]) -> None:
    """Checks in true time that nothing is over too early, but for a step there and back between two polls.

    Each step: what happens, seconds before it, how long an answer takes, by how much the clock steps, and at which part
    of its time a request is executed.
    """
    now, offset, version, set_at, until = 100.0, 5000.0, 0, -math.inf, 0.0
    watch, stepped = ExpiryProof(), False
    for what, passes, took, step, part in history:
        now += passes
        if what == "set":
            version, set_at, until = version + 1, now, now + offset + SPAN
        elif what == "step" and not stepped:
            offset, stepped = offset + step, True
        elif what == "undo" and not stepped:
            offset, stepped = 5000.0, True
        elif what == "poll" and version:
            at = now + took * part
            answer = polled(str(version), math.floor((at + offset) * 1000) / 1000, 0.0)
            answer = answer._replace(remaining=until - answer.at)
            watch, stepped = watch.observe(now, answer, now + took, PAUSE), False
            now += took
            assert watch.expires_at >= set_at + SPAN - MARGIN / 2 - 2 * RESOLUTION


Step = st.tuples(
    st.sampled_from(["poll", "poll", "set", "step", "undo"]),
    st.floats(0, 4),
    st.floats(0, 0.3),
    st.floats(-20, 20) | st.sampled_from([sign * size * MARGIN for sign in (-1, 1) for size in (0.49, 0.51, 1, 5)]),
    st.floats(0, 1),
)


@settings(max_examples=1000)
@given(st.lists(Step, max_size=40))
def test_s12_nothing_is_over_before_its_span_has_passed(history: list[tuple[str, float, float, float, float]]) -> None:
    play(history)


@pytest.mark.parametrize("step", [-1.4, -0.11, -0.09, 0.11, 1.4])
def test_s12_nothing_is_over_too_early_in_any_history_of_eight_steps(step: float) -> None:
    """Random histories hardly ever have a clock that steps, is seen, and steps back: these are all there are."""
    steps = [("set", 1.5, 0.0), ("step", 0.01, 0.0), ("undo", 0.01, 0.0), ("poll", 0.01, 0.002), ("poll", 0.01, 0.5)]
    first = (steps[0], steps[3])
    for history in itertools.product(steps, repeat=6):
        play((what, passes, took, step, 0.5) for what, passes, took in (*first, *history))


def test_j06_what_the_clock_has_shown_is_kept_when_it_is_set_back() -> None:
    """Only until it has come there again."""
    watch = ExpiryProof()
    assert watch.reckoned(5.0) == 0.0, "never seen"
    answer = Answer("held", 7, "other:1", 10.0, 1, "", 1000.0, "lease:7:1:1", 10.0)
    watch = watch.observe(100.0, answer, 100.5, 4.0)
    assert watch.reckoned(200.0) == 1100.0 + RESOLUTION
    for version in ("lease:7:1:1", "lease:8:1:1"):
        watch = watch.observe(102.0, answer._replace(at=10.0, version=version), 102.1, 4.0)
        assert watch.reckoned(200.0) == 1002.1 + RESOLUTION, "set back just now, for all that is known"
    assert watch.reckoned(2000.0) == 1908.0 + RESOLUTION, "it has come there again"
    watch = watch.observe(104.0, answer._replace(at=5000.0), 104.1, 4.0)
    assert watch.reckoned(104.0) == 5000.1 + RESOLUTION, "set forward"


def test_j06_an_answer_that_took_long_says_nothing_of_the_clock() -> None:
    answer = Answer("held", 7, "other:1", 10.0, 1, "", 1000.0, "lease:7:1:1", 10.0)
    watch = ExpiryProof().observe(100.0, answer, 100.5, 4.0)
    watch = watch.observe(102.0, answer._replace(at=4602.0), 3702.0, 4.0)
    assert watch.reckoned(3702.0) == 4602.0 + RESOLUTION, "and not an hour more"
