"""What others have written into the keys: read up to a size, believed up to a number, on every server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from django_leader import Config, LeaderElection
from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import inbox
from django_leader.protocol.records import Answer, LeaderInfo, Preconditions
from django_leader.redis.connector import Connect
from django_leader.system import clock
from django_leader.system.waker import Waker
from tests.support.candidates import Candidate
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, RedisServer, eventually

A, B, C = (f"{name}:{'0' * 15}{number}" for number, name in enumerate("abc"))
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", quarantine=0).validate()
KEYS = CONFIG.keys
INFO = LeaderInfo("a")
MANY, HUGE = 100_000, b"x" * 2**20
YEAR = 366 * 86400.0
DIGITS = "9" * 5000
real = pytest.mark.parametrize("client", ["valkey", "redis-server"], indirect=True)


@pytest.fixture
def lease(connect: Connect) -> Iterator[Lease]:
    waker = Waker()
    lease = Lease(connect, CONFIG, waker)
    yield lease
    lease.channel.drop()
    waker.close()


def size(answer: Answer) -> int:
    """Bytes of the texts in it."""
    return sum(len(part) for part in answer if isinstance(part, str))


# Sizes


def test_a_huge_lock_is_told_by_its_size(lease: Lease, client: Any) -> None:
    lease.campaign(A, Preconditions(), INFO)
    client.set(KEYS.lock, HUGE, px=50_000)
    found = lease.campaign(B, Preconditions(), INFO)
    assert (found.verdict, found.holder) == ("foreign", "(1048576 bytes)")
    token = found.token
    assert lease.renew(A, token, INFO).holder == "(1048576 bytes)"
    leader = lease.status().leader
    assert leader
    assert leader.instance_id == "(1048576 bytes)"
    client.persist(KEYS.lock)
    assert lease.campaign(A, Preconditions(), INFO).verdict == "granted", "without an end it is no lease"


def test_a_huge_description_is_none(lease: Lease, client: Any) -> None:
    lease.campaign(A, Preconditions(), INFO)
    client.set(KEYS.info, json.dumps({"instance_id": "a", "hostname": "h" * 2**20}), px=50_000)
    assert lease.status().leader == INFO


@pytest.mark.parametrize(
    "field", ["kind", "token", "holder", "until", "server_id", "replica_syncs", "recorded", "process", "replicas"]
)
def test_a_huge_field_of_the_state_is_read_once(lease: Lease, client: Any, field: str) -> None:
    lease.campaign(A, Preconditions(), INFO)
    lease.campaign(B, Preconditions(), INFO)
    client.hset(KEYS.state, field, HUGE)
    polled = lease.poll(B, 0)
    if polled:
        assert size(polled) < 1000
    status = lease.status()
    assert status.fencing_token < 2**53
    assert size(lease.campaign(B, Preconditions(), INFO)) < 1000
    state = client.hgetall(KEYS.state)
    assert sum(map(len, state.values())) < 1000, "it is gone"


def test_the_history_is_cut(lease: Lease, client: Any) -> None:
    for number in range(1, 31):
        lease.release(A, lease.campaign(A, Preconditions(), INFO).token, "resigned", leave=False)
        assert len(lease.history(20)) == min(20, 2 * number)
    assert [event.kind for event in lease.history(10**9)] == ["resigned", "elected"] * 30
    assert lease.history(0) == lease.history(-1) == []
    for _ in range(30):
        client.xadd(KEYS.events, {"kind": HUGE, "reason": HUGE, "holder": HUGE, "token": DIGITS, "more": HUGE})
    [event] = lease.history(20)
    assert len(event.kind) + len(event.reason) + len(event.instance_id) < 1000


def test_an_inbox_with_something_too_long_is_emptied(lease: Lease, client: Any) -> None:
    client.rpush(inbox(KEYS, A), json.dumps({"duplicate": B}), HUGE, json.dumps({"duplicate": B}))
    assert lease.collect(A) == [{"duplicate": B}]
    assert not client.exists(inbox(KEYS, A))
    client.rpush(inbox(KEYS, A), *(["{}"] * 250))
    assert [len(lease.collect(A)) for _ in range(4)] == [100, 100, 50, 0]


@real
def test_a_wait_ends_with_a_message_that_is_too_long(lease: Lease, client: Any) -> None:
    lease.campaign(B, Preconditions(), INFO)
    client.rpush(inbox(KEYS, B), *([HUGE * 8] * 3))
    with pytest.raises(RedisUnavailable, match="longer than"):
        lease.wait(B, wake=True, until=clock.now() + GENEROUS)
    assert lease.collect(B) == [], "as a candidate asks for after a wait that failed"
    assert not client.exists(inbox(KEYS, B)), "and no other one of its kind is met"
    client.rpush(inbox(KEYS, B), json.dumps({"duplicate": C}))
    assert lease.wait(B, wake=True, until=clock.now() + GENEROUS) == {"duplicate": C}


@real
def test_a_million_candidates_are_not_all_read(lease: Lease, client: Any) -> None:
    now = client.time()[0] * 1000
    for kind, score in (("gone", 1), ("there", now + 60_000)):
        for first in range(0, MANY, 10_000):
            names = {f"{kind}-{number}:0123456789abcdef": score for number in range(first, first + 10_000)}
            client.zadd(KEYS.candidates, names)

    def computed() -> float:
        """Seconds, however busy the machine is."""
        used = client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])

    began = computed()
    all_of_them = "return #redis.call('ZRANGE', KEYS[1], 0, -1)"
    assert client.eval(all_of_them, 1, KEYS.candidates) == 2 * MANY
    read = computed()
    answer = lease.campaign(A, Preconditions(), INFO)
    claimed = computed()
    assert answer.verdict == "granted"
    assert answer.candidates == MANY + 1, "those that are gone do not count"
    assert 2 * MANY - 2000 < client.zcard(KEYS.candidates) <= 2 * MANY - 999, "and are taken away a few at a time"
    assert claimed - read < (read - began) / 2


def test_candidates_that_are_gone_are_taken_away(lease: Lease, client: Any) -> None:
    client.zadd(KEYS.candidates, {f"gone-{number}": 1 for number in range(10)})
    assert lease.campaign(A, Preconditions(), INFO).candidates == 1
    assert client.zrange(KEYS.candidates, 0, -1) == [A.encode()]


# Numbers


@pytest.mark.parametrize("token", [2**53 - 1, 2**53 - 2, 2**53, 10**16 - 1, int("9" * 300)])
def test_a_token_that_nobody_can_have_been_granted_locks_nobody_out(lease: Lease, client: Any, token: int) -> None:
    first = lease.campaign(A, Preconditions(), INFO).token
    lease.campaign(B, Preconditions(), INFO)
    client.hset(KEYS.state, "token", token)
    assert lease.poll(B, first) is None, "a campaign must tell"
    client.delete(KEYS.lock)
    for highest_token in (0, first, 2**53 - 1, token, 2**53 - 2):
        granted = lease.campaign(B, Preconditions(highest_token), INFO)
        assert (granted.verdict, granted.holder) == ("granted", B)
        assert first < granted.token < 2**52
        assert lease.renew(B, granted.token, INFO).verdict == "renewed"
        assert lease.release(B, granted.token, "resigned", leave=False)
    assert [event.kind for event in lease.history(2)] == ["resigned", "elected"], "the history goes on, too"


def test_a_leader_keeps_its_term_through_a_token_that_nobody_can_have(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), INFO).token
    client.hset(KEYS.state, "token", 2**53 - 1)
    assert lease.renew(A, token, INFO)[:2] == ("renewed", token)


def test_a_leader_with_a_token_that_nobody_can_have_reclaims_nothing(lease: Lease, client: Any) -> None:
    for token in (2**53 - 1, 2**53 - 2, 10**16 - 1):
        lease.campaign(A, Preconditions(), INFO)
        client.hset(KEYS.state, "token", token)
        lease.channel.drop()
        assert lease.renew(A, token, INFO).verdict in ("refused", "quarantined")
        client.flushall()
        assert lease.renew(A, token, INFO).verdict in ("refused", "quarantined")


def test_s14_a_token_is_believed_for_longer_than_the_clock_can_be_wrong(lease: Lease, client: Any) -> None:
    highest = 2**52 + 1000
    assert lease.campaign(A, Preconditions(highest), INFO).token == highest + 1
    client.delete(KEYS.lock)
    assert lease.campaign(A, Preconditions(), INFO).token == highest + 2
    client.flushall()
    assert lease.campaign(A, Preconditions(highest + 2), INFO).token == highest + 3


@pytest.mark.parametrize("kind", ["lease", "reclaimed", "quarantine", "delay"])
@pytest.mark.parametrize("duration", [int(YEAR * 1000) + 1, 2**53 - 1])
def test_a_state_that_lasts_longer_than_any_can_locks_nobody_out(
    lease: Lease, client: Any, kind: str, duration: int
) -> None:
    first = lease.campaign(A, Preconditions(), INFO)
    lease.campaign(B, Preconditions(), INFO)
    now = client.time()[0] * 1000
    client.hset(KEYS.state, mapping={"kind": kind, "duration": duration, "until": min(now + duration, 2**53 - 1)})
    client.delete(KEYS.lock)
    assert lease.poll(B, 0) is None
    granted = lease.campaign(B, Preconditions(), INFO)
    assert granted.verdict == "granted"
    assert granted.token > first.token


def test_a_lock_that_lasts_longer_than_any_lease_locks_nobody_out(lease: Lease, client: Any) -> None:
    client.set(KEYS.lock, "somebody else", px=int(YEAR * 1000))
    assert lease.campaign(A, Preconditions(), INFO).verdict == "foreign"
    client.set(KEYS.lock, "somebody else", px=int(YEAR * 1000) + 100_000)
    token = lease.campaign(A, Preconditions(), INFO).token
    client.set(KEYS.lock, "somebody else", px=int(YEAR * 1000) + 100_000)
    assert lease.renew(A, token, INFO).verdict == "renewed"


def test_the_end_of_a_term_is_recorded_despite_a_forged_state(lease: Lease, client: Any) -> None:
    """The state says that the end of a later term was recorded."""
    token = lease.campaign(A, Preconditions(), INFO).token
    client.hset(KEYS.state, "recorded", 2**53 - 1)
    lease.campaign(B, Preconditions(unrecorded_end=(token, "expired")), INFO)
    assert lease.history(1)[0].kind == "expired"


# Readers


@pytest.mark.parametrize("token", [DIGITS, "²", "-1", "1e3", "nan", "", "\x00", "0x10"])
def test_a_token_that_is_no_number_is_none(lease: Lease, client: Any, token: str) -> None:
    lease.campaign(A, Preconditions(), INFO)
    client.hset(KEYS.state, "token", token)
    assert lease.status().fencing_token == 0
    client.xadd(KEYS.events, {"kind": "elected", "holder": A, "token": token})
    assert lease.history(1)[0].fencing_token == 0


@pytest.mark.parametrize("until", ["inf", "1e400", "nan", "0x10", "", DIGITS])
def test_an_end_that_is_no_number_is_now(lease: Lease, client: Any, until: str) -> None:
    client.hset(KEYS.state, mapping={"kind": "quarantine", "until": until})
    assert lease.status().lease_left == 0


def test_an_event_of_no_time_is_shown(lease: Lease, client: Any) -> None:
    client.xadd(KEYS.events, {"odd": "entry"}, id="18446744073709551614-0")
    [event] = lease.history(1)
    assert (event.kind, event.instance_id, event.fencing_token, event.reason) == ("", "", 0, "")
    assert event.at > datetime.now(timezone.utc)
    event.at.astimezone()


def test_what_cannot_be_shown_is_taken_out_of_the_history(lease: Lease, client: Any) -> None:
    odd = "a\u202eb\u2066\x1b[31m\n"
    client.xadd(KEYS.events, {"kind": odd, "reason": odd, "holder": f"{odd}:0123456789abcdef", "token": "7"})
    [event] = lease.history(1)
    assert (event.kind, event.reason, event.instance_id) == ("ab[31m",) * 3


@pytest.fixture
def candidates(own_server: RedisServer) -> Iterator[list[Candidate]]:
    """A leader and a follower."""
    fast: dict[str, Any] = {"heartbeat_interval": 0.3, "retry_interval": 0.3, "lock_ttl": 20, "quarantine": 0}
    leader = Candidate(own_server.port, instance_id="leader", **fast)
    leader.hears("gain")
    follower = Candidate(own_server.port, instance_id="follower", **fast)
    key = Config().keys.candidates
    eventually(lambda: own_server.client().zcard(key) == 2)
    yield [leader, follower]
    for one in (leader, follower):
        one.close()


def peak(pid: int) -> int:
    """Bytes of memory that the process had at most."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_messages_of_megabytes_cost_neither_memory_nor_the_term(
    own_server: RedisServer, candidates: list[Candidate]
) -> None:
    client = own_server.client()
    keys, huge = Config().keys, b"x" * (10 * 2**20)
    before = [peak(one.pid) for one in candidates]
    members: Any = client.zrange(keys.candidates, 0, -1)
    assert len(members) == 2
    with client.pipeline() as together:
        for member in members:
            for _ in range(12):
                together.rpush(inbox(keys, member.decode()), huge)
        together.execute()
    eventually(lambda: not any(client.exists(inbox(keys, member.decode())) for member in members))
    beats = client.hget(keys.state, "until")
    eventually(lambda: client.hget(keys.state, "until") != beats, "heartbeats go on")
    grown = [peak(one.pid) - size for one, size in zip(candidates, before, strict=True)]
    assert max(grown) < 10 * 2**20, grown
    assert candidates[0].verdict()["leads"]
    assert [said for said in candidates[0].pending() if said["event"] == "loss"] == []


def test_forged_twins_are_told_a_few_times_only(some_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    election = LeaderElection(
        some_server.client(), Config(heartbeat_interval=0.05, lock_ttl=6, quarantine=0, instance_id="a")
    )
    election.start()
    try:
        assert election.wait_for_leadership(GENEROUS)
        assert election._candidacy
        box, client = inbox(election.config.keys, election._candidacy.shared.candidate_id), some_server.client()
        for first in range(0, 1000, 100):
            forged = [
                json.dumps({"duplicate": f"a:{number:016x}", "answer": True}) for number in range(first, first + 100)
            ]
            client.rpush(
                box, *forged, "[" * 4000, json.dumps({"duplicate": "\ud800"}), json.dumps({"duplicate": "x" * 3000})
            )
            eventually(lambda: not client.exists(box))
        assert not election.outage
        assert 0 < sum("another process is a candidate" in record.getMessage() for record in caplog.records) <= 10
        assert not [record for record in caplog.records if "recovers by itself" in record.getMessage()]
    finally:
        election.stop()
