"""The claim of a slot, and the end of its run: on every server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import redis

from django_leader.exceptions import ConfigError, RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.protocol.slots import (
    MOST_CLAIMS,
    Claim,
    Decisions,
    End,
    Outcome,
    SlotRequests,
    new_claim_id,
    slot_keys,
)
from django_leader.redis.channel import ConnectionClosed
from django_leader.redis.connector import Connect
from tests.support.lease import Lease

A, B = "a:0000000000000000", "b:0000000000000001"
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", lock_ttl=600, quarantine=300).validate()
KEYS = CONFIG.keys
SLOTS, RUNS = slot_keys(KEYS)
MINUTE = 60_000
FIELD = "job:job"
LATE = 9e12
"""A time after all claims of these tests."""
Now = Callable[[], int]


class Told(NamedTuple):
    """A decision; or the verdict on all claims."""

    verdict: str
    slot: int = 0
    attempt: int = 0
    last: int = 0
    last_slot: int = 0
    last_outcome: str = ""
    since: int = 0


class Leader:
    """One term, and the claims of its job ``job``, a minute apart."""

    def __init__(self, lease: Lease, candidate_id: str, token: int, began: float) -> None:
        self.lease, self.candidate_id, self.token = lease, candidate_id, token
        self.requests = SlotRequests(KEYS, candidate_id, token, began)
        self.ids: dict[int, str] = {}
        """The id of the last claim of each slot."""
        self.memory = ""

    def ask(self, *claims: Claim, late: float = LATE) -> Decisions:
        """Claim, and learn the memory if that is another one."""
        answer: Decisions = self.lease.lease.ask(self.requests.claim(claims, late, self.memory))
        if answer.verdict == "forgotten":
            self.memory = answer.memory
            answer = self.lease.lease.ask(self.requests.claim(claims, late, self.memory))
        return answer

    def claim(self, slot: int, *, late: float = LATE, **options: Any) -> Told:
        """Claim a slot. A verdict on all claims is told as if it were that on this one."""
        self.ids[slot] = options.setdefault("claim_id", new_claim_id())
        claim = Claim("job", slot, **{"before": slot - MINUTE, "grace": 30.0, **options})
        answer = self.ask(claim, late=late)
        if answer.verdict != "decided":
            return Told(answer.verdict)
        [decision] = answer.each
        if decision.verdict == "rerun":
            self.ids[decision.slot] = claim.claim_id
        return Told(*decision)

    def finish(self, slot: int, outcome: Outcome = "ok", error: str = "") -> bool:
        end = End(self.token, "job", slot, self.ids[slot], outcome, 1.5, error)
        [finished] = self.lease.lease.ask(self.requests.finish([end]))
        return bool(finished)


@pytest.fixture
def lease(connect: Connect) -> Iterator[Lease]:
    made = Lease(connect, CONFIG)
    yield made
    made.channel.drop()


def elect(lease: Lease, candidate_id: str, *, reckoned: float = 0.0, highest_token: int = 0) -> Leader:
    """A term for a candidate, whatever goes on."""
    known = Preconditions(highest_token, reckoned=reckoned)
    seen = lease.campaign(candidate_id, known, LeaderInfo("x"))
    granted = lease.campaign(candidate_id, known._replace(expired_version=seen.version), LeaderInfo("x"))
    assert granted.verdict == "granted"
    return Leader(lease, candidate_id, granted.token, granted.began)


@pytest.fixture
def now(client: Any) -> Callable[[], int]:
    def now() -> int:
        seconds, micro = client.time()
        return int(seconds) * 1000 + int(micro) // 1000

    return now


@pytest.fixture
def leader(lease: Lease, client: Any) -> Leader:
    """A has led for an hour, so that no slot of today is in doubt."""
    leader = elect(lease, A)
    earlier = int(client.hget(KEYS.state, "began")) - 3_600_000
    client.hset(KEYS.state, "began", earlier)
    return Leader(lease, A, leader.token, earlier / 1000)


def runs(client: Any) -> list[tuple[int, str]]:
    """What the stream says, in order: slot and outcome."""
    return [(int(fields[b"slot"]), fields[b"outcome"].decode()) for _, fields in client.xrange(RUNS)]


def write(client: Any, **words: Any) -> None:
    """Put a record of the job there, of a run that has ended."""
    memory = client.hget(KEYS.state, "memory").decode()
    known = {
        "last": 0, "doubt": 0, "slot": words.get("last", 0), "token": 1, "started": 0, "attempt": 1, "took": 7,
        "why": "run", "memory": memory, "claim": "x", "policy": "skip", "outcome": "ok", **words, "process": A,
    }  # fmt: skip
    client.hset(SLOTS, FIELD, " ".join(["1", *(f"{name}={value}" for name, value in known.items())]))


def test_j01_a_slot_is_claimed_once(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    first = leader.claim(slot)
    assert (first.verdict, first.slot, first.attempt, first.last, first.last_outcome) == ("run", slot, 1, slot, "none")
    assert leader.claim(slot, last_run="goes-on").verdict == "done"
    assert leader.claim(slot - 1, last_run="goes-on").verdict == "done"
    leader.ids[slot] = client.hget(SLOTS, FIELD).decode().split("claim=")[1].split(" ")[0]
    assert leader.finish(slot) is True
    again = leader.claim(slot)
    assert (again.verdict, again.last_slot, again.last_outcome) == ("done", slot, "ok")
    assert leader.claim(slot + 1, before=slot).verdict == "run"
    assert runs(client) == [(slot - MINUTE, "unknown"), (slot, "ok")]


def test_j01_the_next_term_does_not_start_a_slot_again(leader: Leader, now: Now) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    assert elect(leader.lease, B).claim(slot).verdict == "done"


@pytest.mark.parametrize("policy", ["skip", "rerun"])
def test_j02_a_stale_leader_is_refused(leader: Leader, now: Now, client: Any, policy: str) -> None:
    slot = now() + 500
    successor = elect(leader.lease, B)
    assert leader.claim(slot, in_doubt=policy).verdict == "stale"
    write(client, last=slot - MINUTE)
    assert successor.claim(slot).verdict == "run"
    assert leader.claim(slot, in_doubt=policy).verdict == "stale"
    same_token = Leader(leader.lease, "c:0000000000000002", successor.token, 0)
    assert same_token.claim(slot + 1).verdict == "stale"
    for kind in ("free", "quarantine", "delay"):
        client.hset(KEYS.state, "kind", kind)
        assert successor.claim(slot + 1).verdict == "stale"
    client.hset(KEYS.state, mapping={"kind": "lease", "until": now()})
    assert successor.claim(slot + 1).verdict == "stale"
    client.delete(KEYS.state)
    assert successor.claim(slot + 1).verdict == "stale"


def test_j02_a_claim_that_comes_too_late_is_refused(leader: Leader, now: Now) -> None:
    assert leader.claim(now(), late=now() / 1000 - 1).verdict == "late"
    assert leader.claim(now(), late=now() / 1000 + 60).verdict == "run"


def test_j03_a_slot_of_the_future_is_early(leader: Leader, now: Now, client: Any) -> None:
    answer = leader.ask(Claim("job", now() + MINUTE, now(), "one", 30))
    assert answer.each[0].verdict == "early"
    assert answer.at * 1000 == pytest.approx(now(), abs=40_000)
    assert client.hgetall(SLOTS) == {}
    assert leader.claim(now() + 500).verdict == "run"


@pytest.mark.parametrize("ahead", [MINUTE, 3_600_000, 400 * 86_400_000])
def test_j03_jobs_wait_for_a_clock_that_was_set_back(leader: Leader, now: Now, client: Any, ahead: int) -> None:
    last = now() + ahead
    write(client, last=last)
    decision = leader.claim(now())
    assert (decision.verdict, decision.last) == ("waiting", last)
    assert runs(client) == []
    assert f"last={last} " in client.hget(SLOTS, FIELD).decode(), "it only grows"


def test_j04_what_was_not_claimed_is_missed(leader: Leader, now: Now, client: Any) -> None:
    start = now() - 20 * MINUTE
    write(client, last=start)
    slot = now() - 10_000
    assert leader.claim(slot, grace=20).verdict == "run"
    [(_, missed)] = client.xrange(RUNS)
    assert (missed[b"slot"], missed[b"since"], missed[b"outcome"]) == (
        b"%d" % (slot - MINUTE), b"%d" % start, b"missed",
    )  # fmt: skip


def test_j04_what_was_not_claimed_before_an_overlapped_slot_is_missed(leader: Leader, now: Now, client: Any) -> None:
    slot = now() - 3 * MINUTE
    assert leader.claim(slot, grace=600).verdict == "run"
    assert leader.claim(slot + 3 * MINUTE, last_run="goes-on").verdict == "overlapped"
    assert runs(client)[1:] == [(slot + 2 * MINUTE, "missed"), (slot + 3 * MINUTE, "overlapped")]


def test_j04_a_slot_beyond_its_grace_is_missed(leader: Leader, now: Now, client: Any) -> None:
    slot = now() - 31_000
    assert leader.claim(slot).verdict == "missed"
    assert leader.claim(slot, grace=600).verdict == "done", "it was decided"
    assert runs(client)[-1] == (slot, "missed")


def test_j05_a_run_of_a_dead_leader_is_in_doubt(leader: Leader, now: Now, client: Any) -> None:
    slot = now() - MINUTE
    assert leader.claim(slot, grace=600).verdict == "run"
    heir = elect(leader.lease, B)
    decision = heir.claim(slot)
    assert (decision.verdict, decision.last_slot, decision.last_outcome) == ("done", slot, "in-doubt")
    assert runs(client)[-1] == (slot, "in-doubt")
    assert client.xrevrange(RUNS, count=1)[0][1][b"process"] == A.encode()
    assert heir.claim(slot + MINUTE).verdict == "run"


def test_j05_a_run_in_doubt_is_started_three_times(leader: Leader, now: Now, client: Any) -> None:
    slot = now() - MINUTE
    assert leader.claim(slot, grace=600, in_doubt="rerun").verdict == "run"
    for attempt, who in ((2, B), (3, A)):
        decision = elect(leader.lease, who).claim(slot, in_doubt="rerun")
        assert (decision.verdict, decision.slot, decision.attempt) == ("rerun", slot, attempt), "at once"
        assert decision.last_outcome == "-"
    decision = elect(leader.lease, B).claim(slot + MINUTE, in_doubt="rerun")
    assert (decision.verdict, decision.slot, decision.attempt) == ("run", slot + MINUTE, 1)
    assert runs(client)[-1] == (slot, "in-doubt")


def test_j06_a_term_does_not_start_again_what_it_has_dealt_with(leader: Leader, now: Now, client: Any) -> None:
    """The record is older than its own second start, which has ended."""
    slot = now() - MINUTE
    leader.claim(slot, grace=600, in_doubt="rerun")
    older = client.hget(SLOTS, FIELD)
    heir = elect(leader.lease, B)
    assert heir.claim(slot + MINUTE, in_doubt="rerun").verdict == "rerun"
    assert heir.finish(slot) is True
    client.hset(SLOTS, FIELD, older)
    assert heir.claim(slot + MINUTE, in_doubt="rerun", own_last=slot).verdict == "run"
    assert runs(client)[-1] == (slot, "in-doubt")


def test_j05_a_run_that_was_started_again_ends(leader: Leader, now: Now, client: Any) -> None:
    slot = now() - MINUTE
    leader.claim(slot, grace=600, in_doubt="rerun")
    heir = elect(leader.lease, B)
    assert heir.claim(slot + MINUTE, in_doubt="rerun").verdict == "rerun"
    assert leader.finish(slot) is False, "the record is that of the second start"
    assert heir.finish(slot) is True
    assert heir.claim(slot + MINUTE, in_doubt="rerun").verdict == "run"
    assert runs(client)[1:] == [(slot, "ok"), (slot, "ok")]


@pytest.mark.parametrize(("first", "second"), [("skip", "rerun"), ("rerun", "skip")])
def test_j05_the_policy_of_the_start_counts(leader: Leader, now: Now, client: Any, first: str, second: str) -> None:
    """Two releases may differ."""
    slot = now() - MINUTE
    leader.claim(slot, grace=600, in_doubt=first)
    assert elect(leader.lease, B).claim(slot, in_doubt=second).verdict == "done"
    assert runs(client)[-1] == (slot, "in-doubt")


def test_j06_slots_up_to_the_beginning_of_the_next_term_are_in_doubt(leader: Leader, now: Now, client: Any) -> None:
    """A second more than that, by which the last leader may have been early."""
    slot = now() + 900
    assert leader.claim(slot).verdict == "run"
    client.flushall()
    heir = elect(leader.lease, B, highest_token=leader.token)
    began = heir.requests._began
    assert heir.claim(slot).verdict == "unknown"
    assert heir.claim(began + 1000, before=slot).verdict in ("unknown", "early", "done")
    assert runs(client)[1] == (slot, "unknown")
    later = Leader(leader.lease, B, heir.token, 0)
    client.hset(KEYS.state, "began", now() - 5000)
    client.delete(SLOTS)
    assert later.claim(now()).verdict == "run"


def test_j06_what_is_in_doubt_stays_so_for_the_next_terms(leader: Leader, now: Now, client: Any) -> None:
    slot = now() + 900
    leader.claim(slot)
    client.flushall()
    heir = elect(leader.lease, B, highest_token=leader.token)
    assert heir.claim(slot - 800, before=slot - 900).verdict == "unknown"
    again = elect(leader.lease, A)
    client.hset(KEYS.state, "began", 0)
    assert again.claim(slot, before=slot - 800).verdict == "unknown"


def test_j06_a_second_loss_does_not_end_the_doubt(leader: Leader, now: Now, client: Any) -> None:
    slot = now() + 900
    leader.claim(slot)
    client.flushall()
    heir = elect(leader.lease, B, highest_token=leader.token)
    client.flushall()
    assert heir.lease.renew(B, heir.token, LeaderInfo("x")).verdict == "renewed"
    assert heir.claim(slot).verdict == "unknown"


def test_j06_a_job_that_may_run_twice_runs_after_a_loss(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    client.flushall()
    assert elect(leader.lease, B).claim(slot, in_doubt="rerun").verdict == "run"


def test_j06_a_leader_that_goes_on_knows_its_own_slots(leader: Leader, now: Now, client: Any) -> None:
    slot = now() + 100
    assert leader.claim(slot).verdict == "run"
    client.flushall()
    assert leader.claim(slot + 1, before=slot, own_last=slot).verdict == "stale", "until it has reclaimed its term"
    answer = leader.lease.renew(A, leader.token, LeaderInfo("x"))
    assert (answer.verdict, answer.token) == ("renewed", leader.token)
    assert leader.claim(slot, own_last=slot).verdict == "done"
    heir_record = client.hget(SLOTS, FIELD).decode()
    assert f"last={slot} " in heir_record, "its knowledge is there for the next term"
    assert leader.claim(slot + 1, before=slot, own_last=slot).verdict == "run"
    assert runs(client) == [], "nothing was missed"


def test_j06_what_a_leader_wrote_back_binds_the_next(leader: Leader, now: Now, client: Any) -> None:
    slot = now() + 100
    assert leader.claim(slot).verdict == "run"
    client.flushall()
    leader.lease.renew(A, leader.token, LeaderInfo("x"))
    leader.claim(slot, own_last=slot)
    heir = elect(leader.lease, B)
    client.hset(KEYS.state, "began", 0)
    assert heir.claim(slot).verdict == "done"


def test_j06_a_leader_does_not_vouch_for_the_time_before_its_term(lease: Lease, now: Now, client: Any) -> None:
    """Nor for the second after it, for which the last leader may have been early."""
    leader = elect(lease, A)
    began = leader.requests._began
    client.flushall()
    lease.renew(A, leader.token, LeaderInfo("x"))
    for slot in (began - 10, began, began + 900):
        assert leader.claim(slot, before=slot - 5, grace=600).verdict in ("unknown", "early")


def test_j06_a_clock_that_was_set_back_is_reckoned_with(lease: Lease, now: Now, client: Any) -> None:
    """By the one that is elected, or by another that has campaigned in the quarantine."""
    elect(lease, A)
    client.flushall()
    reckoned = now() / 1000 + 3600
    assert (
        lease.campaign("c:0000000000000002", Preconditions(reckoned=reckoned), LeaderInfo("x")).verdict == "quarantined"
    )
    heir = elect(lease, B)
    assert int(client.hget(KEYS.state, "began")) == pytest.approx(reckoned * 1000, abs=1)
    assert heir.claim(now()).verdict == "unknown"
    heir = elect(lease, A, reckoned=reckoned + 3600)
    assert int(client.hget(KEYS.state, "began")) == pytest.approx(reckoned * 1000 + 3_600_000, abs=1)


def test_j06_a_term_keeps_what_earlier_ones_have_seen_of_the_clock(lease: Lease, now: Now, client: Any) -> None:
    """The clock was set back. A leader that saw it has started nothing, and hands over to one that did not."""
    reckoned = now() / 1000 + 3600
    elect(lease, A, reckoned=reckoned)
    heir = elect(lease, B)
    assert heir.requests._began == int(client.hget(KEYS.state, "began")) == pytest.approx(reckoned * 1000, abs=1)
    assert heir.claim(now()).verdict == "unknown"


def test_j06_a_quarantine_that_ends_early_keeps_what_was_said_in_it(leader: Leader, now: Now, client: Any) -> None:
    reckoned = now() / 1000 + 3600
    client.flushall()
    known = Preconditions(leader.token, reckoned=reckoned)
    assert leader.lease.campaign(B, known, LeaderInfo("x")).verdict == "quarantined"
    assert leader.lease.renew(A, leader.token, LeaderInfo("x")).verdict == "renewed"
    assert leader.claim(now()).verdict == "unknown"
    assert elect(leader.lease, B).claim(now() + 1).verdict == "unknown"


def test_j06_a_quarantine_in_which_the_clock_is_right_puts_nothing_in_doubt(
    leader: Leader, now: Now, client: Any
) -> None:
    """A second is what it may be wrong by, because a claim allows for it."""
    client.flushall()
    known = Preconditions(leader.token, reckoned=now() / 1000 + 0.5)
    assert leader.lease.campaign(B, known, LeaderInfo("x")).verdict == "quarantined"
    assert (
        leader.lease.renew(A, leader.token, LeaderInfo("x"), Preconditions(leader.token, began=7)).verdict == "renewed"
    )
    assert leader.claim(now()).verdict == "run"


def test_j06_a_reclaim_restores_when_the_term_began(lease: Lease, now: Now, client: Any) -> None:
    reckoned = now() / 1000 + 3600
    elect(lease, B, reckoned=reckoned)
    leader = elect(lease, A)
    client.flushall()
    known = Preconditions(leader.token, began=leader.requests._began / 1000)
    assert lease.renew(A, leader.token, LeaderInfo("x"), known).verdict == "renewed"
    assert int(client.hget(KEYS.state, "began")) == pytest.approx(reckoned * 1000, abs=1)


def test_j06_a_claim_names_the_memory_to_which_its_knowledge_belongs(leader: Leader, now: Now, client: Any) -> None:
    """A copy of an earlier claim comes late, and would make a record that lacks the later one."""
    slot = now()
    assert leader.claim(slot - 1, claim_id="one").verdict == "run"
    assert leader.claim(slot, before=slot - 1, own_last=slot - 1).verdict == "run"
    old = leader.memory
    client.flushall()
    leader.lease.renew(A, leader.token, LeaderInfo("x"), Preconditions(leader.token, began=7))
    copy = leader.requests.claim([Claim("job", slot - 1, slot - MINUTE, "one", 30)], LATE, old)
    answer = leader.lease.lease.ask(copy)
    assert (answer.verdict, answer.each) == ("forgotten", ())
    assert client.hgetall(SLOTS) == {}
    assert leader.claim(slot, own_last=slot).verdict == "done"
    assert leader.memory == answer.memory != old
    assert elect(leader.lease, B).claim(slot).verdict == "done"


def test_j06_a_record_older_than_this_terms_claims_starts_nothing_again(leader: Leader, now: Now, client: Any) -> None:
    """It holds a run that has ended since."""
    slot = now()
    assert leader.claim(slot - 1, in_doubt="rerun").verdict == "run"
    old = client.hget(SLOTS, FIELD)
    leader.finish(slot - 1)
    assert leader.claim(slot, before=slot - 1, in_doubt="rerun").verdict == "run"
    client.hset(SLOTS, FIELD, old)
    decision = leader.claim(slot + 1, before=slot, in_doubt="rerun", own_last=slot)
    assert (decision.verdict, decision.slot) == ("run", slot + 1)


def test_j04_what_an_older_record_may_lack_is_unknown(leader: Leader, now: Now, client: Any) -> None:
    start, began = now() - 20 * MINUTE, now() - 10 * MINUTE
    write(client, last=start, memory="another")
    client.hset(KEYS.state, "began", began)
    slot = now() - 10_000
    assert Leader(leader.lease, A, leader.token, 0).claim(slot, grace=20).verdict == "run"
    told = [(int(f[b"since"]), int(f[b"slot"]), f[b"outcome"].decode()) for _, f in client.xrange(RUNS)]
    assert told == [(start, began + 2000, "unknown"), (began + 2000, slot - MINUTE, "missed")]


def test_j06_only_the_records_are_lost(leader: Leader, now: Now, client: Any) -> None:
    """By eviction, or by somebody who deletes the key."""
    slot = now() + 100
    leader.claim(slot)
    client.delete(SLOTS)
    assert leader.claim(slot, own_last=slot).verdict == "done"
    client.delete(SLOTS)
    assert elect(leader.lease, B).claim(slot).verdict == "unknown"


def test_j06_an_older_record_does_not_hide_what_this_term_has_started(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    write(client, last=slot - MINUTE)
    assert leader.claim(slot, own_last=slot).verdict == "done"
    assert f"last={slot} " in client.hget(SLOTS, FIELD).decode()


def test_j07_a_claim_whose_reply_was_lost_is_answered_again(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    for _ in range(2):
        decision = leader.claim(slot, claim_id="one")
        assert (decision.verdict, decision.slot, decision.attempt) == ("run", slot, 1)
    leader.finish(slot)
    assert leader.claim(slot, claim_id="one").verdict == "done"


def test_j07_a_claim_that_is_answered_again_too_late_is_missed(leader: Leader, now: Now, client: Any) -> None:
    slot = now() - 20_000
    assert leader.claim(slot, claim_id="one").verdict == "run"
    for _ in range(2):
        assert leader.claim(slot, claim_id="one", grace=10.0).verdict in ("missed", "done")
    assert runs(client)[1:] == [(slot, "missed")]
    assert leader.claim(slot + 1, before=slot).last_outcome == "missed"


def test_j07_a_claim_is_not_sent_twice_at_a_time(
    leader: Leader, now: Now, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a connection was closed, the first may still be executed, and then follow a later claim."""
    sent: list[bytes] = []

    def call(request: bytes, **options: Any) -> None:
        sent.append(request)
        raise ConnectionClosed("closed")

    with monkeypatch.context() as patched:
        patched.setattr(leader.lease.channel, "call", call)
        with pytest.raises(ConnectionClosed):
            leader.claim(now())
        assert len(sent) == 1
        leader.ids[5] = "x"
        with pytest.raises(ConnectionClosed):
            leader.finish(5)
        assert len(sent) == 3, "an end does no harm"


def test_j07_a_claim_of_another_term_is_another(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    assert leader.claim(slot, claim_id="one").verdict == "run"
    assert elect(leader.lease, B).claim(slot + 1, before=slot, claim_id="one").verdict == "run"
    assert runs(client)[-1] == (slot, "in-doubt")


def test_j07_a_rerun_whose_reply_was_lost_is_answered_again(leader: Leader, now: Now) -> None:
    slot = now() - MINUTE
    leader.claim(slot, grace=600, in_doubt="rerun")
    heir = elect(leader.lease, B)
    for _ in range(2):
        decision = heir.claim(slot + MINUTE, claim_id="one", in_doubt="rerun")
        assert (decision.verdict, decision.slot, decision.attempt) == ("rerun", slot, 2)


def test_j07_a_claim_that_was_given_up_is_unreported(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    assert leader.claim(slot + 1, before=slot).verdict == "run"
    assert runs(client)[-1] == (slot, "unreported")


def test_j05_a_run_is_not_in_doubt_in_its_own_term(leader: Leader, now: Now, client: Any) -> None:
    """Its process knows that it does not go on. If the record lacks its end, that was told to data that were lost."""
    slot = now()
    assert leader.claim(slot, in_doubt="rerun").verdict == "run"
    assert leader.claim(slot + 1, before=slot, in_doubt="rerun").verdict == "run"
    assert runs(client)[-1] == (slot, "unreported")


def test_j07_an_end_that_is_told_twice_is_recorded_once(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    leader.claim(slot)
    for _ in range(2):
        assert leader.finish(slot, "failed", error="ValueError: x") is True
    [_, (_, fields)] = client.xrange(RUNS)
    assert (fields[b"outcome"], fields[b"took"], fields[b"error"]) == (b"failed", b"1500", b"ValueError: x")
    assert leader.claim(slot + 1, before=slot).last_outcome == "failed"


def test_j08_a_slot_that_comes_during_a_run_is_overlapped(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    leader.claim(slot)
    assert leader.claim(slot + 1, before=slot, last_run="goes-on").verdict == "overlapped"
    assert leader.claim(slot + 1, before=slot, last_run="goes-on").verdict == "done"
    assert leader.finish(slot) is True
    assert leader.claim(slot + 2, before=slot + 1).verdict == "run"
    assert runs(client)[1:] == [(slot + 1, "overlapped"), (slot, "ok")]


def test_j08_a_run_goes_on_whatever_became_of_its_record(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    leader.claim(slot)
    client.delete(SLOTS)
    assert leader.claim(slot + 1, before=slot, last_run="goes-on", own_last=slot).verdict == "overlapped"
    again = elect(leader.lease, A)  # the same process, in its next term
    assert again.claim(slot + 2, before=slot + 1, last_run="goes-on").verdict == "overlapped"


def test_j08_a_hung_run_blocks_no_other(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    leader.claim(slot)
    assert leader.claim(slot + 2, before=slot, last_run="hung").verdict == "run"
    assert runs(client)[1:] == [(slot, "hung")]
    assert leader.finish(slot) is False, "it ends after all"
    assert runs(client)[-1] == (slot, "ok")


def test_j08_the_end_of_a_hung_run_is_told(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    leader.claim(slot)
    assert leader.claim(slot, last_run="hung").verdict == "done"
    leader.ids[slot] = client.hget(SLOTS, FIELD).decode().split("claim=")[1].split(" ")[0]
    for _ in range(2):
        assert leader.finish(slot) is True
    assert runs(client)[1:] == [(slot, "hung"), (slot, "ok")]


GARBAGE = ["", "x", "1 last=5", "9" * 5000, "2 last=1 process=a", "1 last=-1 process=", "\xff"]


@pytest.mark.parametrize("record", GARBAGE)
def test_j10_a_record_that_cannot_be_read_puts_slots_in_doubt(
    leader: Leader, now: Now, client: Any, record: str
) -> None:
    slot = now()
    assert leader.claim(slot - 1).verdict == "run"
    client.hset(SLOTS, FIELD, record)
    assert leader.claim(slot).verdict == "in-doubt"
    assert leader.claim(slot + 1, before=slot, in_doubt="rerun").verdict == "run"
    client.hset(SLOTS, FIELD, record)
    assert leader.finish(slot + 1) is False


def test_j10_a_long_record_is_not_searched(leader: Leader, now: Now, client: Any) -> None:
    """A pattern would take minutes for this one, and block the server."""
    slot = now()
    leader.claim(slot)
    client.hset(SLOTS, FIELD, "1 " + " claim=x outcome=y" * 100_000)
    assert leader.finish(slot) is False
    assert leader.claim(slot + 1, before=slot).verdict == "in-doubt"


@pytest.mark.parametrize("field", ["memory", "began", "began_token", "until", "token"])
@pytest.mark.parametrize("value", ["garbage", "", str(8 * 10**15)])
def test_j10_a_forged_state_starts_nothing_twice(leader: Leader, now: Now, client: Any, field: str, value: str) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    client.hset(KEYS.state, field, value)
    for _ in range(2):
        assert leader.claim(slot, own_last=slot).verdict in ("done", "stale")


@pytest.mark.parametrize("key", [SLOTS, RUNS, KEYS.state])
def test_j10_a_key_of_a_wrong_type_is_an_error(leader: Leader, now: Now, client: Any, key: str) -> None:
    client.delete(key)
    client.set(key, "x")
    real = type(client) is redis.Redis
    before = {name: client.dump(name) for name in client.scan_iter()} if real else {}
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        leader.claim(now())
    assert before == ({name: client.dump(name) for name in client.scan_iter()} if real else {})


def test_the_stream_is_capped(leader: Leader, now: Now, client: Any) -> None:
    with client.pipeline() as pipeline:
        for _ in range(5200):
            pipeline.xadd(RUNS, {"name": "x", "slot": 1, "outcome": "ok"})
        pipeline.execute()
    assert leader.claim(now()).verdict == "run"
    assert client.xlen(RUNS) <= 5100


def test_claims_in_one_request_are_as_if_each_were_sent_alone(leader: Leader, now: Now, client: Any) -> None:
    slot, names = now(), [f"job {number}" for number in range(MOST_CLAIMS)]
    claims = [Claim(name, slot, slot - MINUTE, new_claim_id(), 30) for name in names]
    answer = leader.ask(*claims[:2], claims[2]._replace(slot=slot + MINUTE), *claims[3:])
    assert [decision.verdict for decision in answer.each] == ["run", "run", "early", *["run"] * (MOST_CLAIMS - 3)]
    assert {decision.slot for decision in answer.each} == {slot, slot + MINUTE}
    ends = [End(leader.token, claim.name, slot, claim.claim_id, "ok", 0.25) for claim in claims]
    finished = leader.lease.lease.ask(leader.requests.finish(ends))
    assert finished == [True, True, False, *[True] * (MOST_CLAIMS - 3)]
    assert b" took=250 " in client.hget(SLOTS, "job:job 49")
    again = leader.ask(*claims)
    assert [decision.verdict for decision in again.each] == ["done", "done", "run", *["done"] * (MOST_CLAIMS - 3)]
    assert again.each[0].last_outcome == "ok"


def test_an_answer_to_another_number_of_claims_is_none(leader: Leader, now: Now) -> None:
    slot = now()
    two = [Claim(name, slot, slot - 1, "one", 30) for name in ("a", "b")]
    request, other = leader.requests.claim(two, LATE, ""), leader.requests.claim(two[:1], LATE, "")
    memory = request.read(leader.lease.lease.send(request)).memory
    reply = leader.lease.lease.send(leader.requests.claim(two, LATE, memory))
    assert len(request.read(reply).each) == 2
    with pytest.raises(RedisUnavailable, match="does not belong to its request"):
        other.read(reply)


def test_names_are_apart(leader: Leader, now: Now, client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    other = Claim("söme other\njob", slot, slot - MINUTE, new_claim_id(), 30)
    assert leader.ask(other).each[0].verdict == "run"
    assert set(client.hkeys(SLOTS)) == {b"job:job", "job:söme other\njob".encode()}


def test_an_instance_id_may_look_like_a_record(leader: Leader, now: Now, client: Any) -> None:
    name = "the host claim=x outcome=- process=y:0000000000000003"
    heir = elect(leader.lease, name)
    slot = now() + 100
    write(client, last=slot - MINUTE)
    assert heir.claim(slot).verdict == "run"
    assert client.hget(SLOTS, FIELD).decode().endswith(f" outcome=- process={name}")
    assert heir.finish(slot) is True
    assert client.hget(SLOTS, FIELD).decode().endswith(f" outcome=ok process={name}")
    assert heir.claim(slot + 1, before=slot).last_outcome == "ok"


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"name": "x" * 201}, {"claim_id": "a b"}, {"claim_id": ""}, {"before": 100}, {"before": -1}],
)
def test_what_is_no_claim_is_refused(wrong: dict[str, Any]) -> None:
    claim = Claim("job", 100, 99, "c", 30)._replace(**wrong)
    with pytest.raises(ValueError, match=r"name has|no claim"):
        SlotRequests(KEYS, A, 7, 0).claim([claim], 0, "")


def test_keys_are_the_elections_own() -> None:
    config = replace(CONFIG, redis_key_name="{app}:lock")
    assert slot_keys(config.keys) == ("{app}:lock:slots", "{app}:lock:runs")
    for part in ("slots", "runs", "state", "inbox"):
        with pytest.raises(ConfigError, match="is a key of another election"):
            config.derive(part)
        assert CONFIG.derive(part).keys.lock == f"lock:{part}", "whose own keys have braces"
