"""What the scripts do when Redis has lost data, when its clock jumps, when a request comes late: on every server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config, ValidConfig
from django_leader.protocol.records import Answer, LeaderInfo, Preconditions
from django_leader.redis.connector import Connect
from tests.support.lease import Lease
from tests.support.servers import GENEROUS

A, B, C = (f"{name}:{'0' * 15}{number}" for number, name in enumerate("abc"))
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", lock_ttl=60, quarantine=120).validate()
KEYS = CONFIG.keys
INFO = LeaderInfo("x")


@pytest.fixture
def make(connect: Connect) -> Iterator[Callable[[ValidConfig], Lease]]:
    made: list[Lease] = []

    def make(config: ValidConfig) -> Lease:
        made.append(Lease(connect, config))
        return made[-1]

    yield make
    for lease in made:
        lease.channel.drop()


@pytest.fixture
def lease(make: Callable[[ValidConfig], Lease]) -> Lease:
    return make(CONFIG)


@pytest.fixture
def token(lease: Lease, client: Any) -> int:
    """A leads, on a server that has lost nothing; its token."""
    seen = lease.campaign(A, Preconditions(), INFO)
    granted = lease.campaign(A, Preconditions(expired_version=seen.version), INFO)
    assert granted.verdict == "granted"
    return granted.token


def forget(client: Any, how: str) -> None:
    """Has the server lose the state of the election, or what makes it its own."""
    if how == "all":
        client.flushall()
    elif how == "state":
        client.delete(KEYS.state)
    elif how == "server":
        client.hset(KEYS.state, "server_id", "0" * 40)
    else:
        client.hset(KEYS.state, how, "garbage")


LOSSES = ["all", "state", "server", "token", "kind", "until", "duration", "request"]


@pytest.fixture
def how(request: pytest.FixtureRequest, client: Any) -> str:
    how: str = request.param
    if how == "server" and type(client) is not redis.Redis:
        pytest.skip("fakeredis has no INFO, so no identity")
    return how


def test_s11_the_first_start_on_an_empty_server_costs_a_quarantine(lease: Lease) -> None:
    first = lease.campaign(A, Preconditions(), INFO)
    assert (first.verdict, first.holder, first.remaining, first.duration) == ("quarantined", "", 120, 120)
    again = lease.campaign(B, Preconditions(), INFO)
    assert (again.verdict, again.version) == ("quarantined", first.version)
    assert 120 - GENEROUS < again.remaining <= 120, "whoever comes later does not lengthen it"
    [event] = lease.history(9)
    assert (event.kind, event.reason) == ("quarantined", "state lost")
    assert lease.status().quarantined
    assert 120 - GENEROUS < lease.status().lease_left <= 120


def test_s11_without_a_quarantine_the_first_to_come_is_granted(make: Any) -> None:
    lease = make(Config("lock", "info", quarantine=0).validate())
    assert lease.campaign(A, Preconditions(), INFO).verdict == "granted"


@pytest.mark.parametrize("how", LOSSES, indirect=True)
def test_s11_after_a_loss_nobody_acquires_who_has_not_proved_it_over(
    lease: Lease, client: Any, token: int, how: str
) -> None:
    forget(client, how)
    for me in (B, C, B, A):
        answer = lease.campaign(me, Preconditions(), INFO)
        assert answer.verdict == "quarantined"
    assert lease.campaign(B, Preconditions(expired_version="1:2:lease:3"), INFO).verdict == "quarantined"
    granted = lease.campaign(B, Preconditions(expired_version=answer.version), INFO)
    assert (granted.verdict, granted.holder) == ("granted", B)


@pytest.mark.parametrize("how", LOSSES, indirect=True)
@pytest.mark.parametrize("first", [True, False])
def test_s10_a_leader_reclaims_its_term_with_its_token(
    lease: Lease, client: Any, token: int, how: str, first: bool
) -> None:
    forget(client, how)
    if not first:
        assert lease.campaign(B, Preconditions(highest_token=token), INFO).verdict == "quarantined"
    lease.channel.drop()  # as when a server has restarted; the first heartbeat on a connection looks closer
    answer = lease.renew(A, token, INFO)
    assert (answer.verdict, answer.token, answer.holder) == ("renewed", token, A)
    assert answer.duration == 120, "another lease may have been lost, too: as long as a quarantine"
    assert lease.campaign(B, Preconditions(), INFO).verdict == "held"
    assert lease.renew(A, token, INFO).duration == 120, "as when the answer has not come"
    answered = lease.renew(A, token, INFO).version
    again = lease.renew(A, token, INFO, Preconditions(acknowledged_version=answered))
    held = lease.campaign(B, Preconditions(), INFO)
    assert (
        (again.verdict, again.version, again.duration)
        == ("renewed", held.version, held.duration)
        == ("renewed", held.version, 60)
    )
    assert lease.release(A, token, "resigned", leave=False) is True
    assert lease.campaign(B, Preconditions(), INFO).verdict == "granted"


def test_s25_what_a_dead_leaders_last_requests_set_binds_everybody(lease: Lease, client: Any, token: int) -> None:
    other = lease.campaign(B, Preconditions(dead=(A, token)), INFO)
    assert other.verdict == "granted"
    client.flushall()
    late = make_late(lease, token)
    assert lease.campaign(C, Preconditions(dead=(A, token)), INFO).verdict == "held"
    lease.renew(A, token, INFO)
    assert lease.campaign(C, Preconditions(dead=(A, token)), INFO).verdict == "held"
    assert lease.release(A, token, "resigned", Preconditions(acknowledged_version=late.version), leave=True) is True, (
        "not the last version"
    )
    held = lease.campaign(C, Preconditions(dead=(A, token)), INFO)
    assert held.verdict == "held"
    assert late.remaining >= held.remaining > 60, "as long as the lease that was lost can last"
    assert lease.renew(B, other.token, INFO).verdict == "renewed"


def test_a_leader_that_regained_its_lease_hands_it_over_at_once(lease: Lease, client: Any, token: int) -> None:
    client.flushall()
    answered = make_late(lease, token).version
    assert lease.release(A, token, "resigned", Preconditions(acknowledged_version=answered), leave=False) is True
    assert lease.campaign(B, Preconditions(), INFO).verdict == "granted"


def make_late(lease: Lease, token: int) -> Answer:
    """The request that A has sent before it died, and that is executed now."""
    lease.channel.drop()
    late = lease.renew(A, token, INFO)
    assert (late.verdict, late.duration) == ("renewed", 120)
    return late


def test_a_heartbeat_and_a_look_at_it_name_the_same_version(lease: Lease, client: Any, token: int) -> None:
    for _ in range(2):
        beat, seen = lease.renew(A, token, INFO), lease.campaign(B, Preconditions(), INFO)
        assert (beat.version, beat.duration, beat.verdict) == (seen.version, seen.duration, "renewed")
        assert beat.at == pytest.approx(seen.at + seen.remaining - seen.duration, abs=1e-4), "when it was set"


def test_a_heartbeat_goes_on_when_the_server_has_forgotten_the_scripts(lease: Lease, client: Any, token: int) -> None:
    lease.renew(A, token, INFO)
    client.script_flush()
    assert lease.renew(A, token, INFO).verdict == "renewed"
    assert lease.renew(A, token, INFO).verdict == "renewed"
    assert json.loads(client.get(KEYS.info))["last_heartbeat"]


def test_s06_a_heartbeat_that_is_answered_by_something_else_is_an_error(
    lease: Lease, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reply in (b"1 renewed 5 x", b"OK", 7, [b"1"]):
        lease.renew(A, token, INFO)
        with monkeypatch.context() as patch:
            patch.setattr(lease.channel, "call", lambda command, reply=reply, **options: reply)
            with pytest.raises(RedisUnavailable, match="does not belong to its request"):
                lease.renew(A, token, INFO)


def test_s10_a_reclaim_that_came_too_late_grants_nothing(lease: Lease, client: Any, token: int) -> None:
    """Although the state says that this candidate holds the lease."""
    client.flushall()
    lease.renew(A, token, INFO)
    assert lease.campaign(A, Preconditions(highest_token=token), INFO).verdict == "held"


def test_s08_s10_what_a_leader_sent_and_what_comes_after_its_lease_changes_nothing(
    lease: Lease, client: Any, token: int
) -> None:
    """A reclaim and a release that the network held back, on a server that has forgotten who leads now."""
    client.flushall()
    over = client.time()[0] - 1.0
    lease.channel.drop()
    assert lease.renew(A, token, INFO, Preconditions(not_after=over)).verdict == "late"
    assert lease.renew(A, token, INFO).verdict == "renewed"
    assert lease.release(A, token, "resigned", Preconditions(not_after=over), leave=False) is False
    assert lease.campaign(B, Preconditions(), INFO).verdict == "held"


def test_s10_a_stale_leader_reclaims_nothing_from_a_later_one(lease: Lease, client: Any, token: int) -> None:
    held = lease.campaign(B, Preconditions(), INFO)
    later = lease.campaign(B, Preconditions(expired_version=held.version), INFO)
    assert (later.verdict, later.token > token) == ("granted", True)
    assert lease.renew(A, token, INFO).verdict == "refused", "on one history the later one has it"
    client.flushall()
    assert lease.renew(A, token, INFO).verdict == "renewed", "the server has forgotten the later one"
    answer = lease.renew(B, later.token, INFO)
    assert (answer.verdict, answer.token, answer.holder) == ("renewed", later.token, B)
    assert lease.renew(A, token, INFO).verdict == "refused"


def test_s11_a_candidate_that_knows_a_higher_token_detects_the_loss(lease: Lease, client: Any, token: int) -> None:
    """Where the server has no identity."""
    answer = lease.campaign(B, Preconditions(highest_token=token + 1), INFO)
    assert (answer.verdict, answer.token) == ("quarantined", token + 1)
    assert lease.history(1)[0].reason == "older state"
    assert lease.renew(A, token, INFO).verdict == "quarantined", "a later one may be there"


@pytest.mark.parametrize("ended", ["quarantined", "expired"])
def test_the_history_tells_a_term_that_a_quarantine_ended_from_the_quarantine(
    lease: Lease, token: int, ended: str
) -> None:
    """Both have the kind ``quarantined``. The other ends of terms need no reason."""
    lease.campaign(B, Preconditions(highest_token=token + 1), INFO)
    lease.campaign(A, Preconditions(unrecorded_end=(token, ended)), INFO)
    told = [(event.kind, event.reason, event.instance_id, event.fencing_token) for event in lease.history(2)]
    assert told == [
        (ended, "term ended" if ended == "quarantined" else "", "a", token),
        ("quarantined", "older state", "b", token + 1),
    ]


def test_s11_a_release_finds_the_loss_too_and_frees_nothing(lease: Lease, client: Any, token: int) -> None:
    client.flushall()
    assert lease.release(A, token, "resigned", leave=True) is False
    assert lease.campaign(B, Preconditions(), INFO).verdict == "quarantined"


def test_s12_a_lease_that_is_over_by_the_servers_clock_must_be_claimed(make: Any, lease: Lease, client: Any) -> None:
    short = make(Config("lock", "info", lock_ttl=0.1, quarantine=0).validate())
    short.campaign(A, Preconditions(), INFO)
    while (answer := lease.campaign(B, Preconditions(), INFO)).verdict == "held":
        pass
    assert (answer.verdict, answer.holder) == ("expired", A)
    assert answer.remaining <= 0
    assert answer.duration == 0.1, "the holder's, not the taker's"
    assert lease.campaign(B, Preconditions(expired_version=answer.version), INFO).verdict == "granted"


def test_s12_a_claim_is_void_once_the_state_has_changed(lease: Lease, token: int) -> None:
    seen = lease.campaign(B, Preconditions(), INFO)
    lease.renew(A, token, INFO)
    assert lease.campaign(B, Preconditions(expired_version=seen.version), INFO).verdict == "held"


def test_s12_a_state_that_the_clock_froze_can_be_claimed(lease: Lease, client: Any, token: int) -> None:
    # As after a backward step: lease and lock end in a year by the server's clock.
    client.hset(KEYS.state, "until", str(int(client.hget(KEYS.state, "until")) + 365 * 86_400_000))
    client.pexpire(KEYS.lock, 365 * 86_400_000)
    seen = lease.campaign(B, Preconditions(), INFO)
    assert (seen.verdict, seen.duration) == ("held", 60)
    assert lease.campaign(B, Preconditions(expired_version=seen.version), INFO).verdict == "granted"


def test_s12_a_campaign_that_is_too_old_is_refused_and_leaves_no_trace(lease: Lease, client: Any, token: int) -> None:
    lease.release(A, token, "resigned", leave=True)
    seconds, _ = client.time()
    assert lease.campaign(B, Preconditions(not_after=seconds - 1), INFO).verdict == "late"
    assert client.zscore(KEYS.candidates, B) is None
    assert lease.campaign(B, Preconditions(not_after=seconds + 60), INFO).verdict == "granted"


def test_s05_a_candidate_that_no_reply_reaches_keeps_nobody_out_for_long(lease: Lease, client: Any, token: int) -> None:
    again = lease.campaign(A, Preconditions(unrecorded_end=(token, "expired")), INFO)
    assert again.verdict == "granted", "the reply to the grant was lost"
    for _ in range(3):
        seen = lease.campaign(A, Preconditions(unrecorded_end=(token, "expired")), INFO)
        assert seen.verdict == "held", "and that to this one, too: it lasts, and is then claimed like any other"
    assert [event.kind for event in lease.history(9)].count("expired") == 1, "told once"
    assert lease.renew(A, again.token, INFO).verdict == "renewed"
    claimed = lease.campaign(A, Preconditions(expired_version=lease.campaign(A, Preconditions(), INFO).version), INFO)
    assert claimed.verdict == "granted"


def test_s05_a_campaign_that_an_earlier_grant_overtook_is_refused(lease: Lease, client: Any, token: int) -> None:
    client.hset(KEYS.state, "request", str(10**15))
    assert lease.campaign(A, Preconditions(), INFO).verdict == "held"


def test_s15_a_lost_lock_key_frees_nothing_and_is_restored(lease: Lease, client: Any, token: int) -> None:
    """The next renewal restores it."""
    client.delete(KEYS.lock)
    held = lease.campaign(B, Preconditions(), INFO)
    assert (held.verdict, held.holder) == ("held", A)
    assert lease.renew(A, token, INFO).verdict == "renewed"
    assert client.get(KEYS.lock) == A.encode()


def test_s15_garbage_in_the_lock_is_written_over_unless_its_time_runs(lease: Lease, client: Any, token: int) -> None:
    client.set(KEYS.lock, "garbage")
    assert lease.renew(A, token, INFO).verdict == "renewed"
    assert client.get(KEYS.lock) == A.encode()
    client.set(KEYS.lock, "another program", px=60_000)
    answer = lease.renew(A, token, INFO)
    assert (answer.verdict, answer.holder) == ("refused", "another program")
    assert lease.campaign(A, Preconditions(), INFO).verdict == "foreign"


def test_s15_the_holder_of_a_lock_whose_state_is_gone_is_remembered(lease: Lease, client: Any, token: int) -> None:
    client.delete(KEYS.state)
    seen = lease.campaign(B, Preconditions(), INFO)
    assert seen.verdict == "quarantined"
    assert lease.campaign(B, Preconditions(expired_version=seen.version), INFO).verdict == "granted"


def test_s15_a_renewal_goes_on_when_the_memory_is_full(lease: Lease, client: Any, token: int) -> None:
    if type(client) is not redis.Redis:
        pytest.skip("fakeredis has no memory limit")
    if int(client.info("server")["redis_version"].split(".")[0]) < 7:
        pytest.skip("Redis 6.2 cannot be told that a script may run when the memory is full")
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            client.set("other", "x")
        assert lease.renew(A, token, INFO).verdict == "renewed"
        assert lease.release(A, token, "resigned", leave=False) is True
        assert lease.campaign(B, Preconditions(), INFO).verdict == "granted"
    finally:
        client.config_set("maxmemory", 0)


def test_s13_too_few_replicas_confirm_nothing(make: Any, lease: Lease, client: Any, token: int) -> None:
    if type(client) is not redis.Redis:
        pytest.skip("fakeredis has no replicas")
    # A busy machine answers within its timeout, of about a second, and the lease outlives the wait for a replica.
    careful = make(Config("lock", "info", lock_ttl=10, heartbeat_interval=5, min_replicas=1).validate())
    with pytest.raises(RedisUnavailable, match=r"0 of 1 replicas \(MIN_REPLICAS\)"):
        careful.renew(A, token, INFO)
    lease.release(A, token, "resigned", leave=False)
    with pytest.raises(RedisUnavailable, match="NOREPLICAS"):
        careful.campaign(B, Preconditions(expired_version=careful.campaign(B, Preconditions(), INFO).version), INFO)


def test_s13_without_info_nothing_can_be_said_of_replicas(make: Any, client: Any) -> None:
    if type(client) is redis.Redis:
        client.acl_setuser("noinfo", enabled=True, nopass=True, commands=["+@all", "-info"], keys=["*"])
        client = redis.Redis(port=client.connection_pool.connection_kwargs["port"], username="noinfo", password="x")
        from django_leader.redis.connector import connector

        careful = Lease(connector(client.connection_pool), Config("lock", "info", min_replicas=1).validate())
    else:
        careful = make(Config("lock", "info", min_replicas=1).validate())
    with pytest.raises(RedisUnavailable, match="MIN_REPLICAS needs INFO"):
        careful.campaign(A, Preconditions(), INFO)
    careful.channel.drop()


def test_s13_a_confirmation_fails_after_a_loss(lease: Lease, client: Any, token: int) -> None:
    assert lease.renew(A, token, INFO, confirm=True).verdict == "renewed"
    client.flushall()
    assert lease.renew(A, token, INFO, confirm=True).verdict == "quarantined"
