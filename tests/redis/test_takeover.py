"""The claim of a lease whose holder's process is dead: on every server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.records import Answer, LeaderInfo, Preconditions
from django_leader.protocol.requests import Requests
from django_leader.redis.connector import Connect
from tests.support.lease import Lease
from tests.support.servers import GENEROUS

A, B, C = (f"{name}:{'0' * 15}{number}" for number, name in enumerate("abc"))
HOUR = 3600
CONFIG = Config(redis_key_name="lock", redis_info_key_name="info", lock_ttl=HOUR, quarantine=2 * HOUR).validate()
KEYS = CONFIG.keys
INFO = LeaderInfo("x")

Make = Callable[[str], Lease]


@pytest.fixture
def make(connect: Connect) -> Iterator[Make]:
    """Speaks for one process, which publishes what is given."""
    made: list[Lease] = []

    def make(process: str) -> Lease:
        made.append(Lease(connect, CONFIG))
        made[-1].process = process
        return made[-1]

    yield make
    for lease in made:
        lease.channel.drop()


@pytest.fixture
def first(make: Make) -> Lease:
    """Of A."""
    return make("process of A")


@pytest.fixture
def lease(make: Make) -> Lease:
    """Of everybody else."""
    return make("process of B")


@pytest.fixture
def token(first: Lease) -> int:
    """A leads, on a server that has lost nothing; its token."""
    seen = first.campaign(A, Preconditions(), INFO)
    granted = first.campaign(A, Preconditions(expired_version=seen.version), INFO)
    assert granted.verdict == "granted"
    return granted.token


def claim(lease: Lease, token: int, *, me: str = B, holder: str = A) -> Answer:
    return lease.campaign(me, Preconditions(dead=(holder, token)), INFO)


def last(lease: Lease) -> tuple[str, str]:
    """What the history says last, and why."""
    event = lease.history(1)[0]
    return event.kind, event.reason


def process(client: Any) -> str:
    published: bytes = client.hget(KEYS.state, "process")
    return published.decode()


def test_s25_the_lease_of_a_dead_process_is_granted_at_once(lease: Lease, client: Any, token: int) -> None:
    """Although most of it is left."""
    held = lease.campaign(B, Preconditions(), INFO)
    assert held.verdict == "held"
    assert held.remaining > HOUR - GENEROUS
    granted = claim(lease, token)
    assert (granted.verdict, granted.holder, granted.token > token) == ("granted", B, True)
    assert last(lease) == ("taken-over", "died")
    assert client.get(KEYS.lock) == B.encode()


def test_s25_only_a_take_over_from_the_dead_is_called_so(lease: Lease, token: int) -> None:
    seen = lease.campaign(B, Preconditions(), INFO)
    assert lease.campaign(B, Preconditions(expired_version=seen.version), INFO).verdict == "granted"
    assert last(lease) == ("taken-over", "")


def test_s25_what_the_dead_had_sent_before_changes_nothing_afterwards(
    first: Lease, lease: Lease, client: Any, token: int
) -> None:
    granted = claim(lease, token)
    for _ in range(2):
        answer = first.renew(A, token, INFO)
        assert (answer.verdict, answer.holder, answer.token) == ("refused", B, granted.token)
    assert first.release(A, token, "resigned", leave=True) is False
    assert first.campaign(A, Preconditions(), INFO).verdict == "held"
    assert client.get(KEYS.lock) == B.encode()
    assert process(client) == "process of B"


@pytest.mark.parametrize(("holder", "more"), [(A, 1), (A, -1), (C, 0), ("", 0), ("a", 0)])
def test_s25_a_claim_of_another_holder_or_token_is_refused(lease: Lease, token: int, holder: str, more: int) -> None:
    answer = claim(lease, token + more, holder=holder)
    assert (answer.verdict, answer.holder, answer.token) == ("held", A, token)


def test_s25_a_campaign_that_claims_nothing_is_refused(lease: Lease, token: int) -> None:
    assert lease.campaign(B, Preconditions(), INFO).verdict == "held"
    assert lease.campaign(B, Preconditions(dead=("", 0)), INFO).verdict == "held"


def test_s25_a_claim_need_not_name_the_version(first: Lease, lease: Lease, token: int) -> None:
    """What the dead had sent may be executed between the poll and the claim."""
    seen = lease.campaign(B, Preconditions(), INFO)
    before = first.renew(A, token, INFO).version
    assert first.renew(A, token, INFO).version != before != seen.version
    assert claim(lease, token).verdict == "granted"


def test_s25_a_claim_after_the_end_of_the_lease_is_granted_too(lease: Lease, client: Any, token: int) -> None:
    client.hset(KEYS.state, "until", 1)
    client.delete(KEYS.lock)
    assert lease.campaign(B, Preconditions(), INFO).verdict == "expired"
    assert claim(lease, token).verdict == "granted"


def test_s25_of_two_claimers_one_is_granted_and_the_other_follows(lease: Lease, token: int) -> None:
    won = claim(lease, token)
    lost = claim(lease, token, me=C)
    assert (lost.verdict, lost.holder, lost.token, lost.process) == ("held", B, won.token, "process of B")


def test_s25_a_doubled_claim_grants_nothing_anew(
    lease: Lease, client: Any, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    lease.campaign(B, Preconditions(), INFO)  # the server knows the script from here on
    send = lease.channel.call

    def overhear(command: bytes, **options: Any) -> Any:
        sent.append(command)
        return send(command, **options)

    monkeypatch.setattr(lease.channel, "call", overhear)
    granted = claim(lease, token)
    state = client.hgetall(KEYS.state)
    assert b"\nheld\n%d\n" % granted.token in send(sent[-1])
    assert client.hgetall(KEYS.state) == state
    lease.release(B, granted.token, "resigned", leave=False)
    won = lease.campaign(C, Preconditions(), INFO)
    assert b"\nheld\n%d\n" % won.token in send(sent[-1]), "and so it is when it is late"


def test_s25_a_later_term_of_the_same_holder_is_not_claimed(first: Lease, lease: Lease, token: int) -> None:
    """The reply to its grant was lost, so it was granted another; then the death of a process says nothing of that."""
    again = first.campaign(A, Preconditions(), INFO)
    assert (again.verdict, again.token > token) == ("granted", True)
    assert claim(lease, token).verdict == "held"
    assert first.renew(A, again.token, INFO, Preconditions(acknowledged_version=again.version)).verdict == "renewed"
    assert claim(lease, token).verdict == "held"
    assert claim(lease, again.token).verdict == "granted"


def test_s25_a_claim_of_what_was_released_has_nothing_to_take(first: Lease, lease: Lease, token: int) -> None:
    first.release(A, token, "resigned", leave=True)
    assert claim(lease, token).verdict == "granted"
    assert last(lease) == ("elected", ""), "it was free"


def test_s25_a_release_that_holds_is_kept(first: Lease, lease: Lease, token: int) -> None:
    first.release(A, token, "resigned", leave=True, hold=30)
    answer = claim(lease, token)
    assert (answer.verdict, answer.holder) == ("held", A)


@pytest.mark.parametrize("loss", ["all", "state", "another server", "token"])
def test_s25_in_a_quarantine_a_death_says_nothing(lease: Lease, client: Any, token: int, loss: str) -> None:
    if loss == "all":
        client.flushall()
    elif loss == "state":
        client.delete(KEYS.state)
    elif loss == "token":
        client.hset(KEYS.state, "token", "garbage")
    elif type(client) is redis.Redis:
        client.hset(KEYS.state, "server_id", "0" * 40)
    else:
        pytest.skip("fakeredis has no INFO, so no identity")
    for _ in range(2):
        answer = claim(lease, token)
        assert (answer.verdict, answer.process) == ("quarantined", "")
    granted = lease.campaign(B, Preconditions(expired_version=answer.version, dead=(A, token)), INFO)
    assert granted.verdict == "granted"
    assert last(lease) == ("elected", ""), "its time was over, and not the holder dead"


def test_s25_a_candidate_that_knows_a_higher_token_claims_nothing(lease: Lease, token: int) -> None:
    assert lease.campaign(B, Preconditions(highest_token=token + 1, dead=(A, token)), INFO).verdict == "quarantined"


def test_s25_a_reclaimed_lease_is_claimed_only_after_its_acknowledgement(
    first: Lease, lease: Lease, client: Any, token: int
) -> None:
    """A heartbeat of its holder must have shown that the reclaim counted."""
    client.flushall()
    first.channel.drop()
    answered = first.renew(A, token, INFO).version
    assert claim(lease, token).verdict == "held"
    assert first.renew(A, token, INFO, Preconditions(acknowledged_version=answered)).verdict == "renewed"
    assert claim(lease, token).verdict == "granted"


def test_s25_a_foreign_lock_is_left_alone(lease: Lease, client: Any, token: int) -> None:
    client.set(KEYS.lock, "another program", px=50_000)
    answer = claim(lease, token)
    assert (answer.verdict, answer.holder) == ("foreign", "another program")
    assert client.get(KEYS.lock) == b"another program"


def test_s25_a_lock_key_that_is_gone_hinders_no_claim(lease: Lease, client: Any, token: int) -> None:
    client.delete(KEYS.lock)
    assert claim(lease, token).verdict == "granted"


def test_s25_a_claim_that_is_too_old_is_not_executed(lease: Lease, client: Any, token: int) -> None:
    seconds, _ = client.time()
    assert lease.campaign(B, Preconditions(not_after=seconds - 1, dead=(A, token)), INFO).verdict == "late"
    assert client.get(KEYS.lock) == A.encode()


def test_s23_every_answer_tells_the_holders_process(lease: Lease, client: Any, token: int) -> None:
    assert process(client) == "process of A"
    assert lease.campaign(B, Preconditions(), INFO).process == "process of A"
    assert (seen := lease.poll(B, 0))
    assert seen.process == "process of A"
    won = claim(lease, token)
    assert won.process == process(client) == "process of B"


def test_s23_a_reclaim_publishes_the_process_again(first: Lease, lease: Lease, client: Any, token: int) -> None:
    client.flushall()
    assert lease.campaign(B, Preconditions(), INFO).process == ""
    first.channel.drop()
    assert first.renew(A, token, INFO).process == process(client) == "process of A"
    first.renew(A, token, INFO)
    assert process(client) == "process of A", "and a heartbeat leaves it there"


def test_s23_a_leader_whose_wall_clock_was_set_publishes_its_process_anew(
    first: Lease, lease: Lease, client: Any, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first.process = "process of A, later"
    assert first.renew(A, token, INFO).verdict == "renewed", "with its next heartbeat"
    assert process(client) == lease.campaign(B, Preconditions(), INFO).process == "process of A, later"
    monkeypatch.setattr(Requests, "reclaim", None)  # which would be the more costly heartbeat
    assert first.renew(A, token, INFO).verdict == "renewed", "and once is enough"


def test_s23_a_heartbeat_that_failed_publishes_the_process_the_next_time(
    first: Lease, client: Any, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*said: Any) -> Any:
        raise RedisUnavailable("it is away")

    first.process = "process of A, later"
    with monkeypatch.context() as away:
        away.setattr(first.lease, "ask", ask)
        with pytest.raises(RedisUnavailable):
            first.renew(A, token, INFO)
    assert process(client) == "process of A"
    first.renew(A, token, INFO)
    assert process(client) == "process of A, later"


def test_s23_a_campaign_that_was_packed_before_publishes_the_process_of_now(
    lease: Lease, client: Any, token: int
) -> None:
    lease.campaign(B, Preconditions(), INFO)
    lease.pack(B, Preconditions(dead=(A, token)), INFO)
    lease.process = "process of B, later"
    assert claim(lease, token).verdict == "granted"
    assert process(client) == "process of B, later"


def test_s23_who_publishes_nothing_leaves_nothing_of_the_last_holder(make: Make, client: Any, token: int) -> None:
    secretive = make("")
    granted = claim(secretive, token, me=C)
    assert (granted.verdict, granted.process, process(client)) == ("granted", "", "")
