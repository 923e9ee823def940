"""The claim of a slot, and the end of its run: on every server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.protocol.slots import Claim, Decision, Outcome, SlotRequests, job_keys
from django_leader.redis.connector import Connect
from tests.support.lease import Lease

A, B = "a:0000000000000000", "b:0000000000000001"
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", lock_ttl=600, quarantine=300).validate()
KEYS = CONFIG.keys
JOBS, RUNS = job_keys(KEYS)
MINUTE = 60_000


class Leader:
    """One term, and the claims of its job ``job``, a minute apart."""

    def __init__(self, lease: Lease, candidate_id: str, token: int, began: float) -> None:
        self.lease, self.candidate_id, self.token = lease, candidate_id, token
        self.requests = SlotRequests(KEYS, candidate_id, token, began)
        self.claims = 0

    def claim(self, slot: int, *, late: float = 0.0, **options: Any) -> Decision:
        self.claims += 1
        known = {"before": slot - MINUTE, "grace": 30.0, "claim_id": f"{self.candidate_id}/{self.claims}"}
        claim = Claim("job", slot, **{**known, **options})
        decision: Decision = self.lease.lease.ask(self.requests.claim(claim, late))
        return decision

    def finish(self, slot: int, outcome: Outcome = "ok", **options: Any) -> bool:
        claim = Claim("job", slot, slot - MINUTE, options.get("claim_id", f"{self.candidate_id}/{self.claims}"), 30)
        finished: bool = self.lease.lease.ask(self.requests.finish(claim, slot, outcome, 1.5, options.get("error", "")))
        return finished


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
    return Leader(lease, candidate_id, granted.token, granted.at)


@pytest.fixture
def now(client: Any) -> Callable[[], int]:
    def now() -> int:
        seconds, micro = client.time()
        return int(seconds) * 1000 + int(micro) // 1000

    return now


@pytest.fixture
def leader(lease: Lease, client: Any) -> Leader:
    """A leads, and nothing is in doubt."""
    leader = elect(lease, A)
    client.hset(KEYS.state, mapping={"doubt_until": 0, "doubt_token": 0})
    return leader


def runs(client: Any) -> list[tuple[int, str]]:
    """What the stream says, in order: slot and outcome."""
    return [(int(fields[b"slot"]), fields[b"outcome"].decode()) for _, fields in client.xrange(RUNS)]


def test_j01_a_slot_is_claimed_once(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    first = leader.claim(slot)
    assert (first.verdict, first.slot, first.attempt, first.last_outcome) == ("run", slot, 1, "none")
    assert leader.claim(slot).verdict == "done"
    assert leader.claim(slot - 1).verdict == "done"
    assert leader.finish(slot, claim_id=f"{A}/1") is True
    again = leader.claim(slot)
    assert (again.verdict, again.last_slot, again.last_outcome) == ("done", slot, "ok")
    assert leader.claim(slot + 1, before=slot).verdict == "run"
    assert runs(client) == [(slot - MINUTE, "unknown"), (slot, "ok")]


def test_j01_the_next_term_does_not_start_a_slot_again(leader: Leader, now: Callable[[], int]) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    assert elect(leader.lease, B).claim(slot).verdict == "done"


@pytest.mark.parametrize("policy", ["skip", "rerun"])
def test_j02_a_stale_leader_is_refused(leader: Leader, now: Callable[[], int], client: Any, policy: str) -> None:
    slot = now()
    successor = elect(leader.lease, B)
    assert leader.claim(slot, in_doubt=policy).verdict == "stale"
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


def test_j02_a_claim_that_comes_too_late_is_refused(leader: Leader, now: Callable[[], int]) -> None:
    assert leader.claim(now(), late=now() / 1000 - 1).verdict == "late"
    assert leader.claim(now(), late=now() / 1000 + 60).verdict == "run"


def test_j03_a_slot_of_the_future_is_early(leader: Leader, now: Callable[[], int], client: Any) -> None:
    decision = leader.claim(now() + MINUTE)
    assert decision.verdict == "early"
    assert decision.at * 1000 == pytest.approx(now(), abs=40_000)
    assert client.hgetall(JOBS) == {}
    assert leader.claim(now() + 500).verdict == "run"


def test_j03_jobs_wait_for_a_clock_that_went_back(leader: Leader, now: Callable[[], int], client: Any) -> None:
    ahead = now() + 60 * MINUTE
    client.hset(JOBS, "job", f"{ahead} {ahead} {leader.token} x 0 1 ok {A}")
    assert leader.claim(now()).verdict == "done"
    assert runs(client) == []


def test_j04_what_was_not_claimed_is_missed(leader: Leader, now: Callable[[], int], client: Any) -> None:
    start = now() - 20 * MINUTE
    client.hset(JOBS, "job", f"{start} {start} {leader.token} x 0 1 ok {A}")
    slot = now() - 10_000
    assert leader.claim(slot, grace=20).verdict == "run"
    [(_, missed)] = client.xrange(RUNS)
    assert (missed[b"slot"], missed[b"since"], missed[b"outcome"]) == (
        b"%d" % (slot - MINUTE), b"%d" % start, b"missed",
    )  # fmt: skip


def test_j04_a_slot_beyond_its_grace_is_missed(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now() - 31_000
    assert leader.claim(slot).verdict == "missed"
    assert leader.claim(slot, grace=600).verdict == "done", "it was decided"
    assert runs(client)[-1] == (slot, "missed")


def test_j05_a_run_of_a_dead_leader_is_in_doubt(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now() - MINUTE
    assert leader.claim(slot, grace=600).verdict == "run"
    decision = elect(leader.lease, B).claim(slot + MINUTE)
    assert (decision.verdict, decision.last_slot, decision.last_outcome) == ("run", slot, "in-doubt")
    assert runs(client)[-1] == (slot, "in-doubt")
    assert client.xrevrange(RUNS, count=1)[0][1][b"process"] == A.encode()


def test_j05_a_run_in_doubt_is_started_again_three_times(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now() - MINUTE
    assert leader.claim(slot, grace=600, in_doubt="rerun").verdict == "run"
    for attempt, who in ((2, B), (3, A)):
        heir = elect(leader.lease, who)
        decision = heir.claim(slot + MINUTE, in_doubt="rerun")
        assert (decision.verdict, decision.slot, decision.attempt) == ("rerun", slot, attempt)
        assert decision.last_outcome == "-"
    decision = elect(leader.lease, B).claim(slot + MINUTE, in_doubt="rerun")
    assert (decision.verdict, decision.slot, decision.attempt) == ("run", slot + MINUTE, 1)
    assert runs(client)[-1] == (slot, "in-doubt")


def test_j05_a_run_that_was_started_again_ends(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now() - MINUTE
    leader.claim(slot, grace=600)
    heir = elect(leader.lease, B)
    assert heir.claim(slot + MINUTE, in_doubt="rerun").verdict == "rerun"
    assert leader.finish(slot, claim_id=f"{A}/1") is False, "the record is that of the second start"
    assert heir.finish(slot) is True
    assert heir.claim(slot + MINUTE, in_doubt="rerun").verdict == "run"
    assert runs(client)[1:] == [(slot, "ok"), (slot, "ok")]


def lose(client: Any) -> None:
    client.flushall()


def test_j06_slots_up_to_the_end_of_the_quarantine_are_in_doubt(
    leader: Leader, now: Callable[[], int], client: Any
) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    lose(client)
    heir = elect(leader.lease, B, highest_token=leader.token)
    assert heir.claim(slot).verdict == "in-doubt"
    assert heir.claim(slot + 1, before=slot).verdict == "in-doubt", "decided by data, not by the name"
    assert runs(client)[-1] == (slot + 1, "in-doubt")
    doubt_until = int(client.hget(KEYS.state, "doubt_until"))
    assert doubt_until == pytest.approx(now() + 300_000 + 1000, abs=40_000)
    client.hset(KEYS.state, "doubt_until", now() - 1)
    assert heir.claim(now(), before=slot + 1).verdict == "run"


def test_j06_a_job_that_may_run_twice_runs_after_a_loss(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    lose(client)
    assert elect(leader.lease, B).claim(slot, in_doubt="rerun").verdict == "run"


def test_j06_a_leader_that_goes_on_knows_its_own_slots(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now() + 100
    assert leader.claim(slot).verdict == "run"
    lose(client)
    assert leader.claim(slot + 1, before=slot, own_last=slot).verdict == "stale", "until it has reclaimed its term"
    answer = leader.lease.renew(A, leader.token, LeaderInfo("x"))
    assert (answer.verdict, answer.token) == ("renewed", leader.token)
    assert leader.claim(slot, own_last=slot).verdict == "done"
    assert leader.claim(slot + 1, before=slot, own_last=slot).verdict == "run"
    assert runs(client) == [], "nothing was missed"


def test_j06_a_leader_does_not_vouch_for_the_time_before_its_term(
    leader: Leader, now: Callable[[], int], client: Any
) -> None:
    began = leader.requests._began
    lose(client)
    leader.lease.renew(A, leader.token, LeaderInfo("x"))
    assert leader.claim(began, grace=600).verdict == "in-doubt"
    assert leader.claim(began + 1, before=began, grace=600).verdict == "run"


def test_j06_a_leader_that_was_elected_after_a_loss_vouches_for_nothing(
    leader: Leader, now: Callable[[], int], client: Any
) -> None:
    lose(client)
    heir = elect(leader.lease, B)
    slot = heir.requests._began + 1
    assert heir.claim(slot, own_last=slot - 1).verdict == "in-doubt"


def test_j06_a_clock_that_was_set_back_with_the_loss_is_reckoned_with(
    leader: Leader, now: Callable[[], int], client: Any
) -> None:
    lose(client)
    reckoned = now() / 1000 + 3600
    elect(leader.lease, B, reckoned=reckoned)
    assert int(client.hget(KEYS.state, "doubt_until")) == pytest.approx(reckoned * 1000 + 1000, abs=1)
    elect(leader.lease, A, reckoned=reckoned + 3600)
    assert int(client.hget(KEYS.state, "doubt_until")) == pytest.approx(reckoned * 1000 + 1000, abs=1), (
        "no loss, no doubt"
    )
    client.hset(KEYS.state, "kind", "garbage")
    elect(leader.lease, B)
    assert int(client.hget(KEYS.state, "doubt_until")) == pytest.approx(reckoned * 1000 + 1000, abs=1), "it is kept"


def test_j07_a_claim_whose_reply_was_lost_is_answered_again(
    leader: Leader, now: Callable[[], int], client: Any
) -> None:
    slot = now()
    for _ in range(2):
        decision = leader.claim(slot, claim_id="one")
        assert (decision.verdict, decision.slot, decision.attempt) == ("run", slot, 1)
    leader.finish(slot, claim_id="one")
    assert leader.claim(slot, claim_id="one").verdict == "done"
    heir = elect(leader.lease, B)
    assert leader.claim(slot, claim_id="one").verdict == "stale"
    assert heir.claim(slot + 1, before=slot, claim_id="two").verdict == "run"


def test_j07_a_rerun_whose_reply_was_lost_is_answered_again(leader: Leader, now: Callable[[], int]) -> None:
    slot = now() - MINUTE
    leader.claim(slot, grace=600)
    heir = elect(leader.lease, B)
    for _ in range(2):
        decision = heir.claim(slot + MINUTE, claim_id="one", in_doubt="rerun")
        assert (decision.verdict, decision.slot, decision.attempt) == ("rerun", slot, 2)


def test_j07_a_claim_that_was_given_up_is_no_run(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    assert leader.claim(slot + 1, before=slot).verdict == "run"
    assert runs(client)[-1] == (slot, "failed-to-start")


def test_j07_an_end_that_is_told_twice_is_recorded_once(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    leader.claim(slot)
    assert leader.finish(slot, "failed", error="ValueError: x") is True
    assert leader.finish(slot, "failed", error="ValueError: x") is True
    [_, (_, fields)] = client.xrange(RUNS)
    assert (fields[b"outcome"], fields[b"took"], fields[b"error"]) == (b"failed", b"1500", b"ValueError: x")
    assert leader.claim(slot + 1, before=slot).last_outcome == "failed"


def test_j08_a_slot_that_comes_during_a_run_is_overlapped(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    leader.claim(slot)
    assert leader.claim(slot + 1, before=slot, running=True).verdict == "overlapped"
    assert leader.claim(slot + 1, before=slot, running=True).verdict == "done"
    assert leader.finish(slot, claim_id=f"{A}/1") is True
    assert leader.claim(slot + 2, before=slot + 1).verdict == "run"
    assert runs(client)[1:] == [(slot + 1, "overlapped"), (slot, "ok")]


def test_j08_a_hung_run_blocks_no_other(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    leader.claim(slot)
    record = client.hget(JOBS, "job").decode().split(" ")
    record[4] = str(now() - 5000)
    client.hset(JOBS, "job", " ".join(record))
    assert leader.claim(slot + 1, before=slot, running=True, max_run=100).verdict == "overlapped"
    assert leader.claim(slot + 2, before=slot + 1, running=True, max_run=4).verdict == "run"
    assert runs(client)[1:] == [(slot + 1, "overlapped"), (slot, "hung")]
    assert leader.finish(slot, claim_id=f"{A}/1") is False, "it ends after all"
    assert runs(client)[-1] == (slot, "ok")


GARBAGE = [
    "",
    "x",
    "1 2 3",
    "9" * 5000,
    "-1 2 3 x 4 5 - a",
    "1 2 3 x 4 5",
    "99999999999999999999 1 1 x 1 1 - a",
    "\xff",
]


@pytest.mark.parametrize("record", [*GARBAGE, f"{10**15} 1 1 x 1 1 ok a"])
def test_j10_a_record_that_nobody_can_have_written_counts_as_none(
    leader: Leader, now: Callable[[], int], client: Any, record: str
) -> None:
    client.hset(JOBS, "job", record)
    slot = now()
    assert leader.claim(slot).verdict == "run"
    assert leader.finish(slot) is True
    client.hset(JOBS, "job", record)
    assert leader.finish(slot) is False


@pytest.mark.parametrize("field", ["doubt_until", "doubt_token", "until", "token"])
def test_j10_a_state_that_nobody_can_have_written_starts_nothing_twice(
    leader: Leader, now: Callable[[], int], client: Any, field: str
) -> None:
    client.hset(KEYS.state, field, "garbage")
    assert leader.claim(now()).verdict in ("run", "stale", "in-doubt")


@pytest.mark.parametrize("key", [JOBS, RUNS, KEYS.state])
def test_j10_a_key_of_a_wrong_type_is_an_error(leader: Leader, now: Callable[[], int], client: Any, key: str) -> None:
    client.delete(key)
    client.set(key, "x")
    before = {name: client.dump(name) for name in client.scan_iter()} if type(client) is redis.Redis else {}
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        leader.claim(now())
    assert before == ({name: client.dump(name) for name in client.scan_iter()} if type(client) is redis.Redis else {})


def test_j10_the_stream_is_capped(leader: Leader, now: Callable[[], int], client: Any) -> None:
    with client.pipeline() as pipeline:
        for _ in range(5200):
            pipeline.xadd(RUNS, {"name": "x", "slot": 1, "outcome": "ok"})
        pipeline.execute()
    assert leader.claim(now()).verdict == "run"
    assert client.xlen(RUNS) <= 5100


def test_names_are_apart(leader: Leader, now: Callable[[], int], client: Any) -> None:
    slot = now()
    assert leader.claim(slot).verdict == "run"
    other = Claim("söme other\njob", slot, slot - MINUTE, "c", 30)
    decision = leader.lease.lease.ask(leader.requests.claim(other, 0))
    assert decision.verdict == "run"
    assert set(client.hkeys(JOBS)) == {b"job", "söme other\njob".encode()}


def test_an_instance_id_with_spaces_is_kept(leader: Leader, now: Callable[[], int], client: Any) -> None:
    name = "the host:0000000000000003"
    heir = elect(leader.lease, name)
    heir.claim(now(), claim_id="1")
    assert client.hget(JOBS, "job").decode().endswith(f" - {name}")
    assert elect(leader.lease, A).claim(now() + 1, before=now()).last_outcome == "in-doubt"
    assert [fields[b"process"] for _, fields in client.xrange(RUNS) if fields[b"outcome"] == b"in-doubt"] == [
        name.encode()
    ]


def test_keys_are_the_elections_own() -> None:
    config = replace(CONFIG, redis_key_name="{app}:lock")
    assert job_keys(config.keys) == ("{app}:lock:jobs", "{app}:lock:runs")
