"""The scripts, each decision of each, on every kind of server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config, inbox
from django_leader.protocol.records import ElectionStatus, LeaderInfo, Preconditions, utc_now
from django_leader.protocol.scripts import script
from django_leader.redis.connector import Connect
from django_leader.system.waker import Waker
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, eventually

A, B, C = (f"{name}:{'0' * 15}{number}" for number, name in enumerate("abc"))
HOUR = 3600.0
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", lock_ttl=HOUR, quarantine=0).validate()
KEYS = CONFIG.keys


def info(instance: str = "a") -> LeaderInfo:
    return LeaderInfo(instance, "host", utc_now(), utc_now(), pid=7)


@pytest.fixture
def lease(connect: Connect) -> Iterator[Lease]:
    waker = Waker()
    lease = Lease(connect, CONFIG, waker)
    yield lease
    lease.channel.drop()
    waker.close()


def state(client: Any) -> dict[str, str]:
    raw: dict[bytes, bytes] = client.hgetall(KEYS.state)
    return {key.decode(): value.decode() for key, value in raw.items()}


def test_the_first_campaign_is_granted_and_the_next_names_the_holder(lease: Lease, client: Any) -> None:
    grant = lease.campaign(A, Preconditions(), info())
    assert (grant.verdict, grant.holder, grant.candidates) == ("granted", A, 1)
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (held.verdict, held.holder, held.token, held.candidates) == ("held", A, grant.token, 2)
    assert HOUR - GENEROUS < held.remaining <= HOUR
    assert client.get(KEYS.lock) == A.encode()
    assert state(client)["token"] == str(grant.token)


def test_s14_a_token_is_higher_than_all_before_and_the_clock(lease: Lease, client: Any) -> None:
    """The server's clock, in microseconds."""
    seconds, micros = client.time()
    first = lease.campaign(A, Preconditions(), info()).token
    assert first >= seconds * 1_000_000 + micros
    lease.release(A, first, "resigned", leave=False)
    assert lease.campaign(A, Preconditions(), info()).token > first


def test_s14_a_token_is_higher_than_the_candidates_floor_though_the_server_forgot(lease: Lease, client: Any) -> None:
    highest_token = 2**52
    assert lease.campaign(A, Preconditions(highest_token), info()).token == highest_token + 1
    client.flushall()
    assert lease.campaign(A, Preconditions(highest_token + 1), info()).token == highest_token + 2
    client.delete(KEYS.lock)
    assert lease.campaign(A, Preconditions(), info()).token == highest_token + 3
    assert client.get(KEYS.info).endswith(b'"fencing_token": %d}' % (highest_token + 3))


def test_s05_a_candidacy_that_lost_the_reply_is_granted_anew(lease: Lease) -> None:
    first = lease.campaign(A, Preconditions(), info())
    again = lease.campaign(A, Preconditions(), info())
    assert again.verdict == "granted"
    assert again.token > first.token


def test_s07_the_same_instance_id_with_another_nonce_is_another_candidate(lease: Lease) -> None:
    duplicate = A[:-1] + "f"
    assert lease.campaign(A, Preconditions(), info()).duplicate == ""
    held = lease.campaign(duplicate, Preconditions(), info())
    assert (held.verdict, held.duplicate) == ("held", A)
    assert lease.campaign(duplicate, Preconditions(), info()).duplicate == "", "told once"
    assert lease.campaign(B, Preconditions(), info("b")).duplicate == ""


def test_a_renewal_lengthens_the_lease_and_publishes_the_info(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    client.pexpire(KEYS.lock, 100_000)
    answer = lease.renew(A, token, info())
    assert (answer.verdict, answer.token, answer.holder) == ("renewed", token, A)
    assert client.pttl(KEYS.lock) > (HOUR - GENEROUS) * 1000
    published = json.loads(client.get(KEYS.info))
    assert list(published)[:4] == ["instance_id", "hostname", "started_at", "last_heartbeat"]
    assert published["fencing_token"] == token


def test_a_renewal_is_refused_when_another_leads(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    client.delete(KEYS.lock, KEYS.state)
    other = lease.campaign(B, Preconditions(token), info("b"))
    assert other.verdict == "granted"
    answer = lease.renew(A, token, info())
    assert (answer.verdict, answer.holder, answer.token) == ("refused", B, other.token)
    assert client.get(KEYS.lock) == B.encode()


def test_s10_a_leader_reclaims_its_term_when_everything_is_lost(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    client.flushall()
    answer = lease.renew(A, token, info())
    assert (answer.verdict, answer.token, answer.holder) == ("renewed", token, A)
    assert client.get(KEYS.lock) == A.encode()
    assert lease.campaign(B, Preconditions(), info("b")).verdict == "held"
    assert lease.history(1)[0].kind == "reclaimed"


def test_a_renewal_of_a_released_term_is_refused(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    lease.release(A, token, "resigned", leave=False)
    assert lease.renew(A, token, info()).verdict == "refused"
    assert client.exists(KEYS.lock) == 0


def test_a_deleted_lock_key_frees_nothing_and_is_restored(lease: Lease, client: Any) -> None:
    """The next renewal restores it."""
    token = lease.campaign(A, Preconditions(), info()).token
    client.delete(KEYS.lock)
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (held.verdict, held.holder) == ("held", A)
    assert HOUR - GENEROUS < held.remaining <= HOUR
    assert lease.renew(A, token, info()).verdict == "renewed"
    assert client.get(KEYS.lock) == A.encode()


def test_s08_a_release_wakes_one_and_is_told_in_the_history(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    assert lease.release(A, token, "resigned", leave=True) is True
    assert client.exists(KEYS.lock, KEYS.info) == 0
    assert client.llen(KEYS.wake) == 1
    assert client.zscore(KEYS.candidates, A) is None
    assert state(client)["kind"] == "free"
    assert [(e.kind, e.instance_id, e.fencing_token) for e in lease.history(9)] == [
        ("resigned", "a", token),
        ("elected", "a", token),
    ]


@pytest.mark.parametrize("me", [A, B])
def test_s08_only_the_holders_own_term_is_released(lease: Lease, client: Any, me: str) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    wrong = token - 1 if me == A else token
    assert lease.release(me, wrong, "resigned", leave=False) is False
    assert client.get(KEYS.lock) == A.encode()
    assert client.exists(KEYS.wake) == 0


def test_a_release_that_holds_lets_nobody_lead_until_then(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    lease.release(A, token, "resigned", leave=True, hold=HOUR / 2)
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (held.verdict, held.holder) == ("held", A)
    assert HOUR / 2 - GENEROUS < held.remaining <= HOUR / 2
    assert client.exists(KEYS.wake) == 0
    assert lease.status().leader is None
    assert HOUR / 2 - GENEROUS < lease.status().lease_left <= HOUR / 2


def test_a_hold_that_is_over_must_be_claimed(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    lease.release(A, token, "resigned", leave=True, hold=0.1)
    over = eventually(lambda: (seen := lease.campaign(B, Preconditions(), info("b"))).verdict == "expired" and seen)
    assert lease.campaign(B, Preconditions(expired_version="delay:1"), info("b")).verdict == "expired"
    assert lease.campaign(B, Preconditions(expired_version=over.version), info("b")).verdict == "granted", (
        "who has proved it claims it"
    )
    assert lease.history(1)[0].kind == "elected"


def test_s12_a_hold_tells_what_the_clocks_of_its_host_showed(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    lease.release(A, token, "resigned", leave=True, hold=30, clocks="the clocks of A")
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (held.verdict, held.process, held.duration) == ("held", "the clocks of A", 30.0)


def test_s12_a_hold_after_an_unconfirmed_reclaim_must_be_watched(lease: Lease, client: Any) -> None:
    """The lease may be lost, and the clocks of two hosts are no proof that a lease is over."""
    token = lease.campaign(A, Preconditions(), info()).token
    client.hset(KEYS.state, "kind", "reclaimed")
    lease.release(A, token, "resigned", leave=True, hold=1, clocks="the clocks of A")
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (held.verdict, held.process) == ("held", "")
    assert held.duration > HOUR - GENEROUS


def test_the_history_tells_a_takeover_from_a_leader_that_did_not_resign(lease: Lease, client: Any) -> None:
    lease.campaign(A, Preconditions(), info())
    held = lease.campaign(B, Preconditions(), info("b"))
    assert (
        lease.campaign(B, Preconditions(expired_version=held.version, unrecorded_end=(5, "expired")), info("b")).verdict
        == "granted"
    )
    told = [(event.kind, event.instance_id, event.fencing_token) for event in lease.history(9)]
    assert [kind for kind, _, _ in told] == ["taken-over", "expired", "elected"]
    assert told[1] == ("expired", "b", 5)


def test_a_follower_that_leaves_while_nobody_leads_passes_the_wake_up_on(lease: Lease, client: Any) -> None:
    token = lease.campaign(A, Preconditions(), info()).token
    lease.release(B, 0, "", leave=True)
    assert client.exists(KEYS.wake) == 0
    lease.release(A, token, "resigned", leave=True)
    client.delete(KEYS.wake)
    lease.release(B, 0, "", leave=True)
    assert client.llen(KEYS.wake) == 1


def test_a_grant_takes_back_wake_ups_that_nobody_needs_any_more(lease: Lease, client: Any) -> None:
    client.rpush(KEYS.wake, "1", "1")
    lease.campaign(A, Preconditions(), info())
    assert client.exists(KEYS.wake) == 0


def test_candidates_that_give_no_sign_of_life_are_forgotten(lease: Lease, client: Any) -> None:
    lease.campaign(A, Preconditions(), info())
    client.zadd(KEYS.candidates, {C: 1000.0})
    assert lease.status().candidates == 1
    assert lease.campaign(B, Preconditions(), info("b")).candidates == 2
    assert client.zscore(KEYS.candidates, C) is None
    assert client.pttl(KEYS.candidates) > 0


def test_the_status_of_a_free_and_of_a_led_election(lease: Lease, client: Any) -> None:
    assert lease.status() == ElectionStatus(None, 0.0, 0, 0)
    token = lease.campaign(A, Preconditions(), info()).token
    status = lease.status()
    assert status.leader
    assert (status.leader.instance_id, status.leader.hostname, status.leader.pid) == ("a", "host", 7)
    assert (status.fencing_token, status.candidates) == (token, 1)
    assert HOUR - GENEROUS < status.lease_left <= HOUR


@pytest.mark.parametrize("garbage", ["", "{", "[1]", '{"instance_id": "somebody"}', "\x00\xff"])
def test_an_info_that_cannot_be_read_does_not_hide_who_leads(lease: Lease, client: Any, garbage: str) -> None:
    lease.campaign(A, Preconditions(), info())
    client.set(KEYS.info, garbage)
    assert lease.status().leader == LeaderInfo("a")
    client.delete(KEYS.info)
    assert lease.status().leader == LeaderInfo("a")


@pytest.mark.parametrize("key", KEYS._fields)
def test_a_key_of_a_wrong_type_is_an_error(lease: Lease, client: Any, key: str) -> None:
    """Nothing is written or deleted."""
    token = lease.campaign(A, Preconditions(), info()).token
    name = getattr(KEYS, key)
    client.delete(name)
    client.setbit(name, 7, 1) if key in ("state", "candidates", "events", "wake") else client.sadd(name, "x")
    kind, before = client.type(name), client.get(KEYS.lock) if key != "lock" else None
    steps: list[Callable[[], Any]] = [
        lambda: lease.campaign(A, Preconditions(), info()),
        lambda: lease.release(A, token, "resigned", leave=True),
    ]
    if key not in ("events", "wake"):  # a heartbeat touches neither
        steps.append(lambda: lease.renew(A, token, info()))
    if key not in ("events", "wake"):
        steps.append(lease.status)
    for step in steps:
        with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
            step()
    assert client.type(name) == kind
    if key != "lock":
        assert client.get(KEYS.lock) == before


def test_a_foreign_value_in_the_lock_is_a_holder_like_any_other(lease: Lease, client: Any) -> None:
    client.set(KEYS.lock, "seed-node-1", px=int(HOUR * 1000))
    held = lease.campaign(A, Preconditions(), info())
    assert (held.verdict, held.holder) == ("foreign", "seed-node-1")
    assert HOUR - GENEROUS < held.remaining <= HOUR
    status = lease.status()
    assert status.leader == LeaderInfo("seed-node-1")


def test_messages_arrive_in_the_inbox_and_wake_ups_do_not(lease: Lease, client: Any) -> None:
    from django_leader.system import clock

    until = clock.now() + 10
    lease.post(A, {"duplicate": B})
    assert client.pttl(inbox(KEYS, A)) > 0
    assert lease.wait(A, wake=False, until=until) == {"duplicate": B}
    client.rpush(KEYS.wake, "0", "1")
    assert lease.wait(A, wake=True, until=until) == {"wake": True}
    assert lease.wait(A, wake=True, until=until) == {"wake": True}
    client.rpush(inbox(KEYS, A), "garbage", "[1]", '{"wake": "x"}')
    assert lease.wait(A, wake=False, until=until) == {}
    assert lease.wait(A, wake=False, until=until) == {}
    assert lease.wait(A, wake=False, until=until) == {}
    assert lease.wait(A, wake=False, until=clock.now() + 0.2) is None


def test_a_script_that_the_server_does_not_know_is_sent_whole(lease: Lease, client: Any) -> None:
    lease.campaign(A, Preconditions(), info())
    client.script_flush()
    assert lease.campaign(A, Preconditions(), info()).verdict == "granted"


def test_s06_a_reply_to_another_request_is_an_error(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    lease.campaign(A, Preconditions(), info())
    for reply in ([b"0", b"granted", b"1", b"x", 1, 1, b""], b"0\ngranted\n1", [], 7, None):
        monkeypatch.setattr(lease.channel, "call", lambda command, reply=reply, **options: reply)
        with pytest.raises(RedisUnavailable, match="does not belong to its request"):
            lease.campaign(A, Preconditions(), info())


@pytest.mark.parametrize("reply", [b"", b"0\nreleased", [b"0"], [], 7, None])
def test_s06_a_reply_to_another_request_is_an_error_for_rare_requests(
    lease: Lease, monkeypatch: pytest.MonkeyPatch, reply: Any
) -> None:
    """As for those that are sent all the time."""
    monkeypatch.setattr(lease.channel, "call", lambda command, **options: reply)
    with pytest.raises(RedisUnavailable, match="does not belong to its request"):
        lease.status()


def test_s06_a_heartbeat_is_not_answered_by_something_else(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    token = lease.campaign(A, Preconditions(), info()).token

    def only_the_number(command: bytes, **options: Any) -> bytes:
        [number] = re.findall(rb"\r\n(1\d{11})\r\n", command)
        return bytes(number) + b" renewed"

    monkeypatch.setattr(lease.channel, "call", only_the_number)
    with pytest.raises(RedisUnavailable, match="the reply to renew does not belong to its request"):
        lease.renew(A, token, info())


def test_every_script_says_what_it_does() -> None:
    for name in ("campaign", "renew", "release", "status", "post"):
        source = script(name).source
        assert source.startswith("--")
        assert "-- KEYS" in source
        assert "-- ARGV" in source
        assert "-- Reply" in source
