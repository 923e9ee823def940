"""Since when a lease is held, by the clocks that a candidate can compare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_leader.protocol.config import Config
from django_leader.protocol.expiry import ExpiryProof
from django_leader.protocol.hold import Clocks, held_since
from django_leader.protocol.machine import Campaigned, State, decided, step
from django_leader.protocol.records import Answer

BOOT, OTHER = "37206924-49b4-42d0-a925-88f5ef7b5d09", "00000000-49b4-42d0-a925-88f5ef7b5d09"
SPAN = 8.0
THERE = Clocks(BOOT, 1000.0, 1_800_000_000.0)
"""The host of the last leader, as it released."""


def hold(elapsed: float, process: str = THERE.to_text(), version: str = "delay:7:1:1") -> Answer:
    """What is answered when, by the server's clock, the release was ``elapsed`` seconds ago."""
    left = SPAN - elapsed
    return Answer("held" if left > 0 else "expired", 7, "other:1", left, 1, "", 0.0, version, SPAN, process)


def same_host(seconds: float) -> Clocks:
    return Clocks(BOOT, THERE.at + seconds, THERE.wall + seconds)


def another_host(seconds: float) -> Clocks:
    return Clocks(OTHER, 50.0, THERE.wall + seconds)


@pytest.mark.parametrize("by_the_server", [1.6, 11.6, 3600.0, -3600.0])
def test_s12_on_the_same_boot_its_clock_decides_alone(by_the_server: float) -> None:
    assert held_since(hold(by_the_server), same_host(1.6)) == THERE.at


@pytest.mark.parametrize(
    ("by_the_server", "by_the_hosts", "elapsed"),
    [
        (1.6, 1.6, 1.6),
        (11.6, 1.6, 1.6),  # the server's clock was set forth
        (1.6, 11.6, 1.6),  # that of a host was
        (86400.0, 86395.0, 86395.0),
        (1.0, -2.0, -2.0),  # this host is three seconds behind
        (1.0, -7.9, -7.9),
        (1.0, -8.1, 1.0),  # its clock is too wrong to tell anything
        (-3600.0, 1.0, 1.0),  # the server's is
        (1.0, 1e9, 1.0),
    ],
)
def test_s12_a_hold_elsewhere_ends_when_server_and_hosts_agree(
    by_the_server: float, by_the_hosts: float, elapsed: float
) -> None:
    """The holder was on another host, so no clock alone is believed."""
    here = another_host(by_the_hosts)
    assert held_since(hold(by_the_server), here) == pytest.approx(here.at - elapsed)


def test_s12_clocks_that_all_tell_nothing_tell_nothing() -> None:
    assert held_since(hold(-3600.0), another_host(-3600.0)) is None


def test_s12_a_clone_is_another_host() -> None:
    """Resumed from one snapshot, it has the same boot id, and was booted at another time by its wall clock."""
    for at, elapsed in ((THERE.at + 500, 1.6), (THERE.at + 0.5, 0.5), (THERE.at - 900, 1.6)):
        clone = Clocks(BOOT, at, THERE.wall + 1.6)
        assert held_since(hold(11.6), clone) == pytest.approx(at - elapsed)


def test_s12_a_wall_clock_set_on_the_same_host_shortens_no_hold() -> None:
    """Also where Redis runs on that host, whose clock it has."""
    here = Clocks(BOOT, THERE.at + 1.6, THERE.wall + 11.6)
    assert held_since(hold(11.6), here) == pytest.approx(THERE.at)


def test_s12_where_the_system_names_no_boot_two_processes_are_on_two_hosts() -> None:
    nameless = Clocks("", 1000.0, THERE.wall)
    here = nameless._replace(at=1001.6, wall=THERE.wall + 1.6)
    assert held_since(hold(11.6, nameless.to_text()), here) == pytest.approx(1000.0)
    assert held_since(hold(11.6, nameless.to_text()), here._replace(wall=THERE.wall + 0.5)) == pytest.approx(1001.1)


@pytest.mark.parametrize("process", ["", "garbage", f"{BOOT} -1 2", f"{BOOT} 1 2 3", f"{BOOT} 1000000 " + "9" * 5000])
def test_s12_of_a_hold_whose_holder_tells_no_clocks_nothing_is_known(process: str) -> None:
    assert held_since(hold(11.6, process), same_host(1.6)) is None


@pytest.mark.parametrize("verdict", ["late", "foreign"])
def test_s12_an_answer_without_a_remaining_time_tells_nothing_of_a_hold(verdict: str) -> None:
    assert held_since(hold(11.6)._replace(verdict=verdict), same_host(1.6)) is None


def test_s12_a_lease_is_not_proved_by_the_clocks_of_two_hosts() -> None:
    for kind in ("lease", "reclaimed", "quarantine"):
        assert held_since(hold(11.6, version=f"{kind}:7:1:1"), same_host(99)) is None


@given(st.sampled_from(["", BOOT]), st.integers(0, 10**12), st.integers(0, 10**12))
def test_clocks_are_what_their_text_says(boot: str, at: int, wall: int) -> None:
    assert Clocks.from_text(Clocks(boot, at / 1000, wall / 1000).to_text()) == Clocks(boot, at / 1000, wall / 1000)


TIMING = Config().validate().timing


def campaigned(answer: Answer, asked_at: float = 100.0) -> tuple[State, bool]:
    """What a newcomer knows after ``answer``, and whether its attempt to lead has ended."""
    event = Campaigned(asked_at, answer, 0.0)
    state = step(State(), event, asked_at, TIMING)
    return state, decided(event, state)


def test_s12_a_newcomer_claims_a_hold_that_is_over_at_once() -> None:
    state, over = campaigned(hold(9.0)._replace(held_since=91.0))
    assert not over
    assert state.watch.expired_version(100.0) == "delay:7:1:1"
    assert state.next_at == pytest.approx(100.0, abs=0.01)


@pytest.mark.parametrize("by_the_server", [1.6, 11.6, -3600.0])
def test_s12_a_newcomer_is_turned_down_by_a_hold_that_goes_on(by_the_server: float) -> None:
    state, over = campaigned(hold(by_the_server)._replace(held_since=98.4))
    assert over
    assert state.watch.expired_version(106.39) == ""
    assert state.watch.expired_version(106.41)


@pytest.mark.parametrize("version", ["delay:7:1:1", "lease:7:1:1", "reclaimed:7:1:1"])
def test_s12_a_newcomer_watches_a_state_that_seems_to_outlast_its_duration(version: str) -> None:
    """The server's clock was set back, so that every process that comes would be turned down for as long."""
    state, over = campaigned(hold(-3600.0, "", version))
    assert not over
    assert state.watch.expired_version(108.1) == version
    _, over = campaigned(hold(0.0, "", version))
    assert over, "and not what has just been set"


def test_s12_a_steady_server_clock_ends_no_hold_without_a_margin() -> None:
    """No holder has left one: half the margin of a lease as long as this hold is 36 seconds."""
    long = hold(0.5)._replace(duration=3600.0, remaining=3564.0, at=5037.0, held_since=101.5)
    watch = ExpiryProof().observe(100.0, hold(0.0, version="lease:7:1:1")._replace(at=5000.0), 100.0, 4.0)
    watch = watch.observe(102.0, long, 102.0, 4.0)
    assert watch.expires_at == 101.5 + 3600


def test_s12_a_newcomer_watches_a_hold_of_which_nothing_is_known() -> None:
    state, over = campaigned(hold(11.6))
    assert not over
    assert state.watch.expired_version(107.9) == ""
    assert state.watch.expired_version(108.1)


def test_s12_a_hold_that_begins_in_the_future_counts_from_now() -> None:
    state, _ = campaigned(hold(-2.0)._replace(held_since=102.0))
    assert state.watch.expires_at == 108.0
