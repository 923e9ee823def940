"""The machine with an invented clock: tables for the rules, and random histories for what must always hold."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_leader.protocol.config import Config, Timing
from django_leader.protocol.machine import (
    SECOND_WAKE_UP,
    AnyEvent,
    Campaigned,
    DeadlineObserved,
    Delivered,
    Ended,
    Failed,
    HolderDied,
    Plan,
    Released,
    Renewed,
    Resign,
    State,
    Stop,
    Term,
    Tick,
    Unsure,
    WaitEnded,
    Woken,
    decided,
    inherited,
    plan,
    preconditions,
    step,
)
from django_leader.protocol.records import Answer

TIMING = Config().validate().timing  # 10 s lease, 3 s heartbeat, 2 s retry, 0.2 s margin
ME, OTHER = "me:0", "other:1"


def granted(token: int = 1) -> Answer:
    return Answer("granted", token, ME, 10.0, 3, "", 0.0, f"granted {token}", 10.0)


def held(remaining: float = 7.0, token: int = 1, candidates: int = 3, span: float = 10.0) -> Answer:
    return Answer("held", token, OTHER, remaining, candidates, "", 0.0, "held", span)


def renewed(token: int = 1) -> Answer:
    return Answer("renewed", token, ME, 10.0, 3, "", 0.0, f"renewed {token}", 10.0)


def refused(holder: str = OTHER, token: int = 2, verdict: str = "refused") -> Answer:
    return Answer(verdict, token, holder, 5.0, 3, "", 0.0, "refused", 10.0)


def leader(asked_at: float = 100.0, token: int = 1) -> State:
    return step(State(), Campaigned(asked_at, granted(token), 0.0), asked_at, TIMING)


def test_s01_the_deadline_counts_from_before_the_request() -> None:
    state = step(State(), Campaigned(100.0, granted(), 0.0), 103.0, TIMING)
    assert state.term == Term(1, 100.0 + 10.0 - 0.2)


def test_s01_a_grant_that_comes_after_its_own_deadline_makes_no_leader() -> None:
    state = step(State(), Campaigned(100.0, granted(7), 0.0), 109.8, TIMING)
    assert state.term is None
    assert state.highest_token == 7
    assert plan(state, 109.8) == Plan("campaign")


@pytest.mark.parametrize("ttl", [0.1, 0.5, 1, 10, 60, 3600])
@pytest.mark.parametrize("heartbeat", [0.1, 1 / 3, 0.5, 0.87, 0.95, 2])
def test_s02_two_tries_of_a_renewal_fit_into_a_lease(ttl: float, heartbeat: float) -> None:
    timing = Config(lock_ttl=ttl, heartbeat_interval=heartbeat * ttl).validate().timing
    assert timing.margin == max(0.010, 0.02 * ttl)
    assert 0 < timing.operation <= ttl / 3
    assert timing.heartbeat + 2 * timing.operation + timing.margin < ttl


def test_s03_a_late_renewal_does_not_revive_a_term() -> None:
    state = leader()
    assert state.term
    late = step(state, Renewed(103.0, renewed()), state.term.deadline, TIMING)
    assert late.term is None
    assert late.ended == Ended(state.term, "expired", owes_release=False)
    assert step(late, Renewed(104.0, renewed()), 104.0, TIMING).term is None


def test_s03_the_next_term_has_another_token() -> None:
    state = step(leader(), Tick(), 200.0, TIMING)
    state = step(state, Delivered(1), 200.0, TIMING)
    state = step(state, Campaigned(200.0, granted(2), 0.0), 200.0, TIMING)
    assert state.term
    assert state.term.token == 2


def test_a_renewal_lengthens_the_term_and_never_shortens_it() -> None:
    state = step(leader(), Renewed(103.0, renewed()), 103.1, TIMING)
    assert state.term == Term(1, 112.8)
    assert state.next_at == 106.0
    again = step(state, Renewed(101.0, renewed()), 103.2, TIMING)
    assert again.term == Term(1, 112.8)


def test_a_renewal_of_another_term_is_ignored() -> None:
    assert step(leader(), Renewed(103.0, renewed(9)), 103.0, TIMING).term == Term(1, 109.8)


def test_s05_a_failed_request_changes_neither_term_nor_deadline() -> None:
    state = leader()
    after = step(state, Failed(0.5), 103.0, TIMING)
    assert after.term == state.term
    assert after.next_at < 103.1
    assert plan(after, 103.0).listen is False


def test_s05_a_lost_reply_to_a_campaign_makes_no_leader() -> None:
    state = step(State(), Failed(0.0), 100.0, TIMING)
    assert state.term is None
    assert plan(state, state.next_at) == Plan("campaign")


def test_s17_the_back_off_grows_to_the_retry_interval_and_no_further() -> None:
    state, waits = State(), []
    for _ in range(60):
        state = step(state, Failed(1.0), 0.0, TIMING)
        waits.append(state.next_at)
    assert waits[0] == pytest.approx(0.05)
    assert waits == sorted(waits)
    assert waits[-1] == TIMING.retry
    assert step(state, Failed(0.0), 0.0, TIMING).next_at == TIMING.retry / 2


def test_s10_a_leader_retries_often_while_its_lease_lasts() -> None:
    """More often than its retry interval, so that a restart of Redis that is over in time ends no term."""
    for timing in (TIMING, Config(retry_interval=60).validate().timing):
        state, now, tries = leader(), 103.0, []
        while state.term and now < 109.0:
            state = step(state, Failed(0.99), now, timing)
            now = state.next_at
            tries.append(now)
        gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert max(gaps) <= 6.8 / 4
        assert all(gap <= max(0.051, (109.8 - at) / 4) for at, gap in zip(tries, gaps, strict=False))


@pytest.mark.parametrize(
    ("answer", "leads"),
    [
        (held(), OTHER),
        (held()._replace(verdict="foreign"), OTHER),
        (held(0.0)._replace(verdict="expired"), ""),
        (held(-5.0)._replace(verdict="expired"), ""),
        (held()._replace(version="delay:1:7:1"), ""),
        (held(-5.0)._replace(verdict="expired", version="delay:1:7:1"), ""),
        (granted(), ME),
    ],
)
def test_only_a_holder_whose_lease_still_counts_leads(answer: Answer, leads: str) -> None:
    """Its process may be dead for long, or have released the lease with a delay."""
    assert step(State(leader="third:2"), Campaigned(100.0, answer, 0.0), 100.1, TIMING).leader == leads


def test_a_holder_that_is_found_dead_does_not_lead() -> None:
    assert step(State(), Campaigned(100.0, held(), 0.0, (OTHER, 1)), 100.1, TIMING).leader == ""


@pytest.mark.parametrize(("remaining", "leads"), [(5.0, OTHER), (-5.0, "")])
def test_a_replaced_leader_names_its_successor_while_that_one_leads(remaining: float, leads: str) -> None:
    state = step(leader(), Renewed(103.0, refused()._replace(remaining=remaining)), 103.1, TIMING)
    assert state.ended
    assert (state.leader, state.ended.reason) == (leads, "taken")


@pytest.mark.parametrize("before", [leader(), step(leader(), Resign(1, "resigned"), 101.0, TIMING)])
def test_s08_a_leaders_request_carries_the_end_of_its_lease(before: State) -> None:
    """On the server's clock."""
    # The server was at 0 when we were at 100, and has answered at once.
    assert preconditions(before, 105.0, TIMING).not_after == pytest.approx(9.8)


def test_s12_a_leader_whose_request_came_late_looks_again_at_once() -> None:
    late = refused(verdict="late")
    state = step(leader(), Renewed(103.0, late), 103.1, TIMING)
    assert state.term == Term(1, 109.8)
    assert plan(state, 103.1) == Plan("renew")
    state = step(pending(), Renewed(100.1, late), 100.2, CONFIRMING)
    assert plan(state, 100.2) == Plan("confirm")


def test_s08_a_voluntary_end_is_delivered_first_and_released_then() -> None:
    state = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    assert state.term is None
    assert plan(state, 101.0) == Plan("wait", 109.8)
    state = step(state, Delivered(1), 102.0, TIMING)
    assert plan(state, 102.0) == Plan("release")
    state = step(state, Released(), 102.0, TIMING)
    assert state.ended is None
    assert plan(state, 102.0) == Plan("wait", 103.0, listen=True)


def test_s08_work_that_does_not_end_keeps_the_lease_until_expiry() -> None:
    state = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    assert plan(state, 109.8) == Plan("wait")
    late = step(state, Delivered(1), 111.0, TIMING)
    assert late.ended is None
    assert plan(late, 111.0) == Plan("campaign")


def test_s08_a_request_for_another_term_is_ignored() -> None:
    assert step(leader(), Resign(2, "resigned"), 101.0, TIMING).term == Term(1, 109.8)


def test_s16_nobody_campaigns_while_loss_callbacks_run() -> None:
    state = step(leader(), Tick(), 200.0, TIMING)
    assert plan(state, 200.0) == Plan("wait")
    assert plan(state, 9999.0) == Plan("wait")
    assert step(state, Campaigned(200.0, granted(2), 0.0), 200.0, TIMING).term is None
    assert plan(step(state, Delivered(1), 300.0, TIMING), 300.0) == Plan("campaign")


@pytest.mark.parametrize("event", [Woken(), Failed(0.5)])
def test_whoever_resigned_stands_back_whatever_wakes_it(event: AnyEvent) -> None:
    state = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    state = step(step(state, Delivered(1), 101.0, TIMING), Released(), 101.0, TIMING)
    state = step(state, event, 101.5, TIMING)
    assert state.next_at == 103.0
    assert plan(state, 103.0) == Plan("campaign")


def test_a_stop_ends_the_term_then_releases_then_leaves() -> None:
    state = step(leader(), Stop(), 101.0, TIMING)
    assert state.term is None
    assert plan(state, 101.0).act == "wait"
    state = step(state, Delivered(1), 101.0, TIMING)
    assert plan(state, 101.0) == Plan("release")
    state = step(state, Released(), 101.0, TIMING)
    assert plan(state, 101.0) == Plan("wait", 101.0 + SECOND_WAKE_UP), "it has woken a follower, which may be frozen"
    assert plan(state, 101.0 + SECOND_WAKE_UP) == Plan("leave")


def test_after_a_release_with_a_delay_it_leaves_at_once() -> None:
    """It has woken nobody."""
    state = step(step(leader(), Stop(30.0), 101.0, TIMING), Stop(5.0), 101.0, TIMING)
    assert state.delay == 30.0, "the longest that was asked for counts"
    state = step(step(state, Delivered(1), 101.0, TIMING), Released(), 101.0, TIMING)
    assert plan(state, 101.0) == Plan("leave")


def test_s18_a_refused_wait_is_not_begun_again_at_once() -> None:
    state = step(State(next_at=110.0), WaitEnded(refused=True), 100.0, TIMING)
    assert plan(state, 101.9) == Plan("wait", 110.0)
    assert plan(state, 102.0) == Plan("wait", 110.0, listen=True)
    assert step(state, WaitEnded(refused=False), 102.0, TIMING).blpop_refused is False


@pytest.mark.parametrize("lead", [False, True])
def test_what_could_not_tell_is_followed_by_the_full_request(lead: bool) -> None:
    state = leader() if lead else step(State(), Campaigned(100.0, held(), 0.0), 100.1, TIMING)
    due = state.next_at
    act = plan(state, due).act
    assert act == ("renew" if lead else "poll")
    state = step(state, Unsure(), due, TIMING)
    assert state.unsure
    assert plan(state, due).act == ("renew" if lead else "campaign")
    answer = Renewed(due, renewed(1)) if lead else Campaigned(due, held(), 0.0)
    state = step(state, answer, due, TIMING)
    assert not state.unsure
    assert plan(state, state.next_at).act == act


def test_s24_a_death_in_the_answer_is_acted_on_at_once() -> None:
    state = step(State(), Campaigned(100.0, held(), 0.0, (OTHER, 7)), 100.1, TIMING)
    assert state.dead == (OTHER, 7)
    assert plan(state, 100.1) == Plan("campaign")
    assert not decided(Campaigned(100.0, held(), 0.0, (OTHER, 7)), state), "the attempt goes on"


def test_a_stopped_follower_leaves_and_releases_a_late_grant() -> None:
    state = step(State(), Stop(), 100.0, TIMING)
    assert plan(state, 100.0) == Plan("leave")
    state = step(state, Campaigned(99.0, granted(5), 0.0), 100.0, TIMING)
    assert state.term is None
    assert plan(state, 100.0) == Plan("release")


def test_a_stop_does_not_wait_for_callbacks_longer_than_the_lease() -> None:
    state = step(leader(), Stop(), 101.0, TIMING)
    assert plan(state, 109.8) == Plan("leave")


def test_a_follower_polls_again_when_the_state_ends_or_at_retry() -> None:
    """Whichever comes first."""
    state = step(State(), Campaigned(100.0, held(span=0.5), 0.0), 100.1, TIMING)
    assert state.next_at == pytest.approx(100.601)
    assert preconditions(state, 100.59, TIMING).expired_version == ""
    assert preconditions(state, 100.6, TIMING).expired_version == "held"
    state = step(State(), Campaigned(100.0, held(span=9.0), 0.0), 100.1, TIMING)
    assert state.next_at == pytest.approx(102.0)


@pytest.mark.parametrize(("verdict", "remaining"), [("foreign", 0.5), ("late", 0.0)])
def test_what_is_not_ours_is_waited_for(verdict: str, remaining: float) -> None:
    answer = held(remaining)._replace(verdict=verdict)
    state = step(State(), Campaigned(100.0, answer, 0.0), 100.1, TIMING)
    assert state.next_at == pytest.approx(100.1 + remaining + 0.001)


def test_s12_a_campaign_says_until_when_it_may_be_executed() -> None:
    assert preconditions(State(), 100.0, TIMING).not_after == 0.0, "the server's clock is not known yet"
    state = step(State(), Campaigned(100.0, held()._replace(at=5000.0), 0.0), 100.1, TIMING)
    not_after = preconditions(state, 102.0, TIMING).not_after
    assert not_after == pytest.approx(5000.001 + 2.0 + TIMING.operation + TIMING.margin)


def test_the_attempts_of_many_followers_spread_over_a_few_milliseconds() -> None:
    def next_at(jitter: float, candidates: int) -> float:
        answer = held(remaining=0.0, candidates=candidates, span=0.0)
        return step(State(), Campaigned(0.0, answer, jitter), 0.0, TIMING).next_at

    assert next_at(0.999, 3) - next_at(0.0, 3) < 0.001
    assert 0.01 < next_at(0.999, 1000) - next_at(0.0, 1000) <= 0.02


def test_a_wake_up_has_a_follower_campaign_and_leaves_a_leader_alone() -> None:
    state = step(State(), Campaigned(100.0, held(), 0.0), 100.0, TIMING)
    assert plan(step(state, Woken(), 100.5, TIMING), 100.5) == Plan("campaign")
    assert step(leader(), Woken(), 101.0, TIMING) == leader()


@pytest.mark.parametrize(
    ("answer", "reason", "next_at"),
    [
        (refused(), "taken", 103.0 + 2.0),
        (refused(holder=""), "data-lost", 103.0),
        (refused(holder=ME), "data-lost", 103.0),
        (refused(holder="", verdict="quarantined"), "quarantined", 103.0),
    ],
)
def test_a_refused_renewal_ends_the_term(answer: Answer, reason: str, next_at: float) -> None:
    state = step(leader(), Renewed(103.0, answer), 103.0, TIMING)
    assert state.term is None
    assert state.ended
    assert (state.ended.reason, state.ended.owes_release, state.next_at) == (reason, False, next_at)
    assert state.highest_token == 2
    assert state.unrecorded_end == (1, reason)


def test_each_failed_callback_doubles_the_pause_until_a_term_lasts() -> None:
    """Up to 64 seconds."""
    state, pauses = leader(), []
    for token in range(1, 9):
        state = step(state._replace(term=Term(token, 1e9), ended=None), Resign(token, "callback-failed"), 0.0, TIMING)
        pauses.append(state.next_at)
    assert pauses == [2, 4, 8, 16, 32, 64, 64, 64]
    state = step(state._replace(term=Term(9, 1e9), ended=None), Renewed(0.0, renewed(9)), 0.0, TIMING)
    assert state.setbacks == 0


def test_s04_a_broken_term_ends_and_another_does_not() -> None:
    ended = step(leader(), DeadlineObserved(1), 101.0, TIMING).ended
    assert ended
    assert ended.reason == "expired"
    assert step(leader(), DeadlineObserved(2), 101.0, TIMING).term


CONFIRMING = Config(min_replicas=1).validate().timing


def pending(now: float = 100.0) -> State:
    return step(State(), Campaigned(100.0, granted(), 0.0), now, CONFIRMING)


def test_s13_a_grant_leads_only_after_a_second_step_confirms_it() -> None:
    state = pending()
    assert (state.term, state.pending) == (None, Term(1, 109.8))
    assert plan(state, 100.0) == Plan("confirm")
    state = step(state, Renewed(100.1, renewed()), 100.2, CONFIRMING)
    assert (state.term, state.pending, state.leader) == (Term(1, 100.1 + 10.0 - 0.2), None, ME)


def test_s13_a_grant_that_is_not_confirmed_leads_nowhere() -> None:
    refusal = refused(holder="", verdict="quarantined")
    state = step(pending(), Renewed(100.1, refusal), 100.2, CONFIRMING)
    assert (state.term, state.pending, state.ended) == (None, None, None)
    assert plan(state, 100.2) == Plan("campaign")
    late = step(pending(), Renewed(100.1, renewed()), 109.8, CONFIRMING)
    assert (late.term, late.pending) == (None, None), "its reply came too late"
    failed = step(pending(), Failed(0.5), 100.1, CONFIRMING)
    assert failed.pending
    assert plan(failed, failed.next_at) == Plan("confirm")


def test_s13_a_wake_up_does_not_hurry_a_confirmation() -> None:
    failed = step(pending(), Failed(0.5), 100.1, CONFIRMING)
    assert step(failed, Woken(), 100.1, CONFIRMING) == failed


def test_s13_a_grant_that_a_stop_overtakes_is_given_back_unannounced() -> None:
    state = step(pending(), Stop(), 100.1, CONFIRMING)
    assert state.ended == Ended(Term(1, 109.8), "resigned", owes_release=True, delivered=True)
    assert step(state, Renewed(100.1, renewed()), 100.2, CONFIRMING).term is None
    assert plan(state, 100.2) == Plan("release")


@pytest.mark.parametrize(
    ("event", "timing", "is_decided"),
    [
        (Campaigned(100.0, granted(), 0.0), TIMING, True),
        (Campaigned(100.0, granted(), 0.0), CONFIRMING, False),
        (Campaigned(100.0, held(), 0.0), TIMING, True),
        (Campaigned(100.0, held()._replace(verdict="foreign"), 0.0), TIMING, True),
        (Campaigned(100.0, held()._replace(verdict="expired"), 0.0), TIMING, False),
        (Campaigned(100.0, held()._replace(verdict="quarantined"), 0.0), TIMING, False),
        (Failed(0.5), TIMING, True),
        (Tick(), TIMING, False),
        (HolderDied(OTHER, 1), TIMING, False),
    ],
)
def test_an_attempt_is_over_when_it_led_or_was_turned_down(event: AnyEvent, timing: Timing, is_decided: bool) -> None:
    assert decided(event, step(State(), event, 100.0, timing)) is is_decided


def test_an_attempt_is_over_when_its_grant_is_confirmed() -> None:
    event = Renewed(100.1, renewed())
    assert decided(event, step(pending(), event, 100.2, CONFIRMING))


def test_the_end_of_a_term_is_told_until_redis_has_answered() -> None:
    state = step(leader(), Tick(), 200.0, TIMING)
    assert preconditions(state, 200.0, TIMING).unrecorded_end == (1, "expired")
    state = step(state, Delivered(1), 200.0, TIMING)
    state = step(state, Failed(0.5), 200.0, TIMING)
    assert preconditions(state, 200.0, TIMING).unrecorded_end == (1, "expired")
    state = step(state, Campaigned(200.0, held(), 0.0), 200.0, TIMING)
    assert preconditions(state, 200.0, TIMING).unrecorded_end == (0, "")


def test_the_end_of_a_term_is_recorded_once() -> None:
    """By its release, or by a later request if the release was missed."""
    state = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    assert preconditions(state, 101.0, TIMING).unrecorded_end == (0, "")
    state = step(state, Tick(), 109.8, TIMING)
    assert preconditions(state, 109.8, TIMING).unrecorded_end == (1, "resigned")


@pytest.fixture
def follower() -> State:
    """It has seen OTHER lead with the token 1."""
    return step(State(), Campaigned(100.0, held(), 0.0), 100.0, TIMING)


def test_s25_a_death_has_a_follower_claim_at_once(follower: State) -> None:
    assert plan(follower, 100.5) == Plan("wait", 102.0, listen=True)
    state = step(follower, HolderDied(OTHER, 1), 100.5, TIMING)
    assert plan(state, 100.5) == Plan("campaign"), "a poll would claim nothing"
    said = preconditions(state, 100.5, TIMING)
    assert (said.dead, said.expired_version) == ((OTHER, 1), "")


@pytest.mark.parametrize("before", [leader(), pending()])
def test_s25_a_death_is_nothing_to_who_has_been_granted_the_lease(before: State) -> None:
    assert step(before, HolderDied(OTHER, 1), 101.0, TIMING) == before
    assert preconditions(before, 101.0, TIMING).dead == ("", 0)


def test_s25_whoever_resigned_stands_back_though_the_next_leader_dies() -> None:
    state = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    state = step(step(state, Delivered(1), 101.0, TIMING), Released(), 101.0, TIMING)
    state = step(state, HolderDied(OTHER, 2), 101.5, TIMING)
    assert plan(state, 101.5) == Plan("wait", 103.0, listen=True)
    assert plan(state, 103.0) == Plan("campaign")
    assert preconditions(state, 103.0, TIMING).dead == (OTHER, 2), "and claims then"


def test_s16_a_death_starts_no_campaign_while_loss_callbacks_run() -> None:
    state = step(leader(), Renewed(103.0, refused()), 103.0, TIMING)
    state = step(state, HolderDied(OTHER, 2), 103.5, TIMING)
    assert plan(state, 103.5) == Plan("wait")
    state = step(state, Delivered(1), 104.0, TIMING)
    assert plan(state, 104.0) == Plan("campaign")
    assert preconditions(state, 104.0, TIMING).dead == (OTHER, 2)


def test_s25_what_a_leader_gives_back_claims_nothing() -> None:
    state = step(leader(), Resign(1, "resigned"), 101.0, TIMING)
    state = step(state, HolderDied(OTHER, 2), 101.0, TIMING)
    assert preconditions(state, 101.0, TIMING).dead == ("", 0)


def test_s25_a_stopped_follower_claims_nothing(follower: State) -> None:
    state = step(step(follower, Stop(), 100.5, TIMING), HolderDied(OTHER, 1), 100.5, TIMING)
    assert plan(state, 100.5) == Plan("leave")


def test_s25_a_claim_whose_reply_is_lost_is_made_again(follower: State) -> None:
    state = step(step(follower, HolderDied(OTHER, 1), 100.5, TIMING), Failed(0.5), 100.6, TIMING)
    assert plan(state, state.next_at) == Plan("campaign")
    assert preconditions(state, state.next_at, TIMING).dead == (OTHER, 1)


def test_s25_a_claim_that_is_refused_is_not_made_in_a_tight_loop(follower: State) -> None:
    state = step(follower, HolderDied(OTHER, 1), 100.5, TIMING)
    state = step(state, Campaigned(100.5, held(), 0.0), 100.6, TIMING)
    assert plan(state, 100.6) == Plan("wait", 102.5, listen=True)
    assert plan(state, 102.5) == Plan("poll")
    quarantined = refused("", 1, "quarantined")._replace(remaining=50.0, duration=50.0)
    state = step(state, Campaigned(102.5, quarantined, 0.0), 102.6, TIMING)
    assert plan(state, 102.6) == Plan("wait", 104.5, listen=True)


def test_s25_the_next_death_is_another_claim(follower: State) -> None:
    state = step(follower, HolderDied(OTHER, 1), 100.5, TIMING)
    state = step(state, Campaigned(100.5, held(token=2), 0.0), 100.6, TIMING)
    state = step(state, HolderDied(OTHER, 2), 101.0, TIMING)
    assert plan(state, 101.0) == Plan("campaign")
    assert preconditions(state, 101.0, TIMING).dead == (OTHER, 2)


EVENTS = st.one_of(
    st.tuples(st.just("campaigned"), st.sampled_from(["granted", "held"]), st.floats(0, 12)),
    st.tuples(st.just("renewed"), st.sampled_from(["renewed", "refused", "gone"]), st.floats(0, 12)),
    st.tuples(st.sampled_from(["failed", "tick", "woken", "resign", "failed-callback", "delivered", "released"])),
    st.tuples(st.sampled_from(["broken", "stop", "died"])),
)


def _event(drawn: tuple[object, ...], state: State, now: float, fresh: int, jitter: float) -> AnyEvent:
    known = state.term or state.pending or (state.ended and state.ended.term)
    token = known.token if known else 0
    match drawn:
        case ("campaigned", "granted", float(late)):
            return Campaigned(now - late, granted(fresh), jitter)
        case ("campaigned", _, float(late)):
            return Campaigned(now - late, held(remaining=late, token=fresh), jitter)
        case ("renewed", "renewed", float(late)):
            return Renewed(now - late, renewed(token))
        case ("renewed", how, float(late)):
            return Renewed(now - late, refused(OTHER if how == "refused" else "", fresh))
        case ("resign",):
            return Resign(token, "resigned")
        case ("failed-callback",):
            return Resign(token, "callback-failed")
        case ("delivered",):
            return Delivered(token)
        case ("broken",):
            return DeadlineObserved(token)
        case ("died",):
            return HolderDied(OTHER, fresh)
        case (name,):
            simple: dict[object, AnyEvent] = {
                "failed": Failed(jitter),
                "tick": Tick(),
                "woken": Woken(),
                "released": Released(),
                "stop": Stop(),
            }
            return simple[name]
    raise AssertionError(drawn)


@settings(max_examples=500)
@given(
    st.sampled_from([TIMING, CONFIRMING]),
    st.lists(st.tuples(EVENTS, st.floats(0, 6), st.floats(0, 0.999)), max_size=60),
)
def test_what_holds_after_every_history(timing: Timing, history: list[tuple[tuple[object, ...], float, float]]) -> None:
    state, now = State(), 1000.0
    over: set[int] = set()
    stopped = False
    for fresh, (drawn, passed, jitter) in enumerate(history, 1):
        now += passed
        event = _event(drawn, state, now, fresh, jitter)
        before, state = state, step(state, event, now, timing)
        stopped = stopped or isinstance(event, Stop)

        assert sum(map(bool, (state.term, state.ended, state.pending))) <= 1, (
            "S16: one term at a time, and its loss before the next gain"
        )
        assert state.highest_token >= before.highest_token, "S14: the floor never falls"
        if not (state.term or state.ended or state.pending or state.stopping or now < state.not_before):
            assert plan(step(state, Woken(), now, timing), now).act == "campaign"
        if before.term and not (state.term and state.term.token == before.term.token):
            over.add(before.term.token)
            assert state.ended, "S16: a term that ends is delivered"
            assert state.ended.term.token == before.term.token
        if state.term:
            assert state.term.token not in over, "S3: a term that has ended never comes back"
            assert now < state.term.deadline, "S1: no term beyond its deadline"
            assert not stopped
            if state.term != before.term:
                assert isinstance(event, Campaigned | Renewed)
                granted_until = before.pending.deadline if before.pending else 0.0
                assert state.term.deadline <= max(granted_until, event.asked_at + timing.ttl - timing.margin)
        assert state.next_at <= now + 64 + timing.ttl, "S17: the election goes on by itself"
        todo = plan(state, now)
        if todo.act in ("campaign", "confirm", "renew"):
            assert not stopped
        if todo.act == "confirm":
            assert state.pending
        if todo.act == "renew":
            assert state.term
        if todo.act == "campaign":
            assert not state.term
            assert not state.ended
        if todo.act == "wait" and state.ended is None:
            assert now < todo.until <= max(state.next_at, state.leave_at)


def test_j06_a_campaign_says_what_the_servers_clock_has_shown() -> None:
    state = State()
    assert preconditions(state, 100.0, TIMING).reckoned == 0.0
    answer = Answer("held", 7, "other:1", 5.0, 1, "", 5000.0, "lease:7:1:1", 10.0)
    state = step(state, Campaigned(100.0, answer, 0.0), 100.0, TIMING)
    state = step(state, Campaigned(102.0, answer._replace(at=10.0), 0.0), 102.0, TIMING)
    reckoned = preconditions(state, 103.0, TIMING).reckoned
    assert reckoned == pytest.approx(5002.0, abs=0.01)
    assert preconditions(inherited(state), 103.0, TIMING).reckoned == reckoned
