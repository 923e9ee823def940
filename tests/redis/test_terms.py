"""Terms: they begin once, end once, and are handed over."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import datetime, timezone
from typing import Any

import pytest
import redis

from django_leader import LeaderElection, LeadershipLost
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.redis.connector import connector
from django_leader.runtime import answers, worker
from django_leader.system import clock
from tests.redis.conftest import FAST, Make
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, RedisServer, eventually


def test_resign_lets_the_other_lead_and_campaigns_again_later(make: Make) -> None:
    first, second = make(instance_id="first"), make(instance_id="second")
    assert first.resign() is False
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()
    assert second.wait_for_leadership(0) is False
    assert first.resign() is True
    assert second.wait_for_leadership(GENEROUS)
    second.stop()
    assert first.wait_for_leadership(GENEROUS)


@pytest.mark.parametrize("ask", [LeaderElection.is_leader, lambda e: e.fencing_token, lambda e: e.lease_left])
def test_s04_once_false_always_false_for_one_token(make: Make, monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    now = clock.now
    with monkeypatch.context() as patch:
        patch.setattr(answers, "clock_gettime", lambda _: now() + 100)
        assert not ask(election)
    assert election.is_leader() is False, "the clock is back, the term is not"
    eventually(election.is_leader, "the next term")
    assert election.fencing_token
    assert token
    assert election.fencing_token > token


def test_s18_wall_time_plays_no_part(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    years = itertools.cycle([1970, 2900, 2026])
    odd = monkeypatch.setattr
    odd(worker, "utc_now", lambda: datetime(next(years), 1, 1, tzinfo=timezone.utc))
    odd(time, "time", lambda: float(next(years)))
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token, start = election.fencing_token, clock.now()
    eventually(lambda: clock.now() > start + 2 * FAST["lock_ttl"])
    assert election.fencing_token == token


def test_s04_the_check_never_raises_and_takes_no_lock(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    seen: list[Any] = []

    def look() -> None:
        seen.extend([election.is_leader(), election.fencing_token, election.lease_left > 0])

    with candidacy.shared.changed:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(GENEROUS)
    assert seen == [True, election.fencing_token, True]


def test_s10_a_healthy_leader_keeps_its_term_through_a_quick_restart_of_redis(
    make: Make, own_server: RedisServer
) -> None:
    election = make(redis.Redis(port=own_server.port), lock_ttl=15.0, quarantine=None)
    election.on_lose_leadership(lambda: pytest.fail("the lease went on"))
    leases = Lease(connector(own_server.client().connection_pool), election.config)
    me = "before:0123456789abcdef"
    seen = leases.campaign(me, Preconditions(), LeaderInfo("before"))
    leases.release(
        me, leases.campaign(me, Preconditions(expired_version=seen.version), LeaderInfo("before")).token, "", leave=True
    )
    leases.channel.drop()  # so that the quarantine of a new server is over
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    own_server.stop()
    eventually(lambda: election.outage)
    own_server.start()
    eventually(lambda: election.history()[:1] and election.history()[0].kind == "reclaimed")
    assert (election.is_leader(), election.fencing_token) == (True, token)
    election._listeners.on_loss.clear()


def test_many_candidates_have_one_leader_at_a_time_through_hand_overs(make: Make) -> None:
    fleet = [make(instance_id=f"web-{number}") for number in range(8)]
    for election in fleet:
        election.start()
    samples, stop = [], threading.Event()

    def sample() -> None:
        while not stop.is_set():
            samples.append(sum(election.is_leader() for election in fleet))
            time.sleep(0)

    watcher = threading.Thread(target=sample)
    watcher.start()
    tokens: list[int] = []
    for _ in range(len(fleet) - 1):
        leader = eventually(lambda: next((e for e in fleet if e.is_leader()), None))
        tokens.append(leader.fencing_token)
        leader.stop()
        fleet.remove(leader)
    stop.set()
    watcher.join()
    assert max(samples) <= 1
    assert tokens == sorted(set(tokens))


def test_s04_a_lost_term_is_told_while_every_other_thread_hangs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The election thread, in a request, and the watcher of the deadline, for a lock."""
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    term, candidacy, goes_on = election.term(), election._candidacy, threading.Event()
    assert term
    assert candidacy
    lease = candidacy._worker.lease
    real = lease.send

    def hang(*args: Any) -> Any:
        goes_on.wait(GENEROUS)
        return real(*args)

    monkeypatch.setattr(lease, "send", hang)
    try:
        with candidacy.shared.changed:
            assert term.lost.wait(GENEROUS) is True
            assert candidacy.shared.state.term, "the machine does not know it yet"
        assert not term.is_current()
    finally:
        goes_on.set()


def test_s04_the_next_term_of_the_process_is_another_one(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    first = election.term()
    assert first
    assert first.is_current()
    assert first.token == election.fencing_token
    assert election.resign()
    assert first.lost.wait(GENEROUS)
    assert election.wait_for_leadership(GENEROUS)
    second = election.term()
    assert second
    assert (second.is_current(), first.is_current()) == (True, False)
    assert second.token > first.token
    with pytest.raises(LeadershipLost, match=rf"token {first.token} is over \(reason: resigned\)"):
        first.raise_if_lost()
    election.stop()
    assert second.lost.is_set()
    assert election.term() is None
