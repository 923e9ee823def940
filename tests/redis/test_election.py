"""``LeaderElection`` in one process: the seed's methods, what it can be asked, and what it survives."""

from __future__ import annotations

import gc
import logging
import threading
import weakref

import fakeredis
import pytest
import redis

from django_leader import Config, LeaderElection, LeaderError, RedisUnavailable
from django_leader.runtime.worker import Worker
from django_leader.system import clock
from tests.redis.conftest import FAST, Make
from tests.support.servers import GENEROUS, RedisServer, eventually


def test_the_methods_of_the_seed(make: Make) -> None:
    election = make(instance_id="web-1", hostname="host-1")
    gained, lost = threading.Event(), threading.Event()

    @election.on_become_leader
    def on_gain() -> None:
        gained.set()

    @election.on_lose_leadership
    def on_loss() -> None:
        lost.set()

    assert (election.is_leader(), election.get_leader_id(), election.get_leader_info()) == (False, "", None)
    thread = threading.Thread(target=election.run)
    thread.start()
    assert gained.wait(GENEROUS)
    assert election.is_leader()
    assert election.get_leader_id() == election.get_instance_id() == election.instance_id == "web-1"
    info = election.get_leader_info()
    assert info
    assert (info.hostname, info.fencing_token) == ("host-1", election.fencing_token)
    assert 0 < election.lease_left <= FAST["lock_ttl"]
    election.stop()
    thread.join(GENEROUS)
    assert lost.wait(GENEROUS)
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (False, None, 0.0)
    assert [event.kind for event in election.history()] == ["resigned", "elected"]


def test_run_while_it_is_a_candidate_already_is_an_error(make: Make) -> None:
    election = make()
    election.start()
    with pytest.raises(LeaderError, match=r"^LEADER_ELECTIONS\['default'\]: this process is a candidate already"):
        election.run()


def test_waiting_for_leadership_by_no_candidate_is_over_at_once(make: Make) -> None:
    assert make().wait_for_leadership(None) is False


def test_one_attempt_ends_though_the_server_is_frozen(make: Make, own_server: RedisServer) -> None:
    election = make(redis.Redis(port=own_server.port))
    own_server.freeze()
    election.start()
    assert election.wait_for_leadership(0) is False
    assert election.outage
    own_server.thaw()
    election.stop()
    assert election.outage == "", "it does not ask any more"


def test_asking_a_server_that_is_away_says_which_election(make: Make, own_server: RedisServer) -> None:
    election = make(redis.Redis(port=own_server.port))
    own_server.stop()
    with pytest.raises(RedisUnavailable, match=r"^LEADER_ELECTIONS\['default'\]: .*refused"):
        election.get_leader_info()


def test_s17_an_unexpected_exception_ends_nothing_and_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = Worker._act, list[bool]()

    def broken(self: Worker) -> float | None:
        if len(failures) < 3:
            failures.append(True)
            raise ZeroDivisionError("a bug")
        return real(self)

    monkeypatch.setattr(Worker, "_act", broken)
    election = make()
    with caplog.at_level(logging.INFO):
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        eventually(lambda: "this process can ask Redis again" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "> broken (test_election.py:" in lines[0]
    assert "a bug" not in lines[0]
    assert "this process can ask Redis again" in lines[1]


def test_a_candidate_ticks(make: Make) -> None:
    election = make()
    assert election.last_tick is None
    election.start()
    eventually(lambda: election.last_tick is not None and election.last_tick < 1.0)


def test_how_late_a_process_is_can_be_asked(make: Make) -> None:
    election = make(heartbeat_interval=0.02)
    assert election.delay == 0.0
    election.start()
    eventually(lambda: election.delay > 0.0)
    election.stop()
    assert election.delay == 0.0


def test_s17_a_thread_that_watches_no_longer_is_seen(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    delivery = eventually(lambda: candidacy.shared.announcer.current)  # just behind what is_leader() reads
    eventually(lambda: election.last_tick is not None and election.last_tick < 0.6)
    with delivery._changed:  # so that the watcher cannot look
        eventually(lambda: election.last_tick is not None and election.last_tick > 0.6)
        assert election.is_leader(), "the election thread renews all the same"


def test_an_election_thread_ticks_while_loss_callbacks_run(make: Make) -> None:
    """Also when it has nothing to do any more, because the lease that it keeps for them is over."""
    election, over, ticks = make(lock_ttl=0.5), threading.Event(), set[float]()
    election.on_lose_leadership(lambda: over.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.resign()
    candidacy = election._candidacy
    assert candidacy
    eventually(lambda: clock.now() > election.grant.deadline, "the lease is over")

    def ticked() -> bool:
        ticks.add(candidacy._worker.turned_at)
        return len(ticks) > 3

    try:
        eventually(ticked)
        assert candidacy.shared.state.ended, "the callback still runs"
    finally:
        over.set()


def test_an_election_works_on_fakeredis(make: Make) -> None:
    pytest.importorskip("lupa")
    server = fakeredis.FakeServer()
    first = make(fakeredis.FakeRedis(server=server), instance_id="first")
    second = make(fakeredis.FakeRedis(server=server), instance_id="second")
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()
    assert second.wait_for_leadership(0) is False
    first.stop()
    assert second.wait_for_leadership(GENEROUS)


def test_a_lock_of_a_wrong_type_elects_nobody_and_is_reported(
    make: Make, some_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    some_server.client().lpush("maplefile:leader:lock", "x")
    election = make()
    with caplog.at_level(logging.WARNING):
        election.start()
        assert election.wait_for_leadership(0) is False
        eventually(lambda: "WRONGTYPE" in caplog.text)
    assert some_server.client().type("maplefile:leader:lock") == b"list"
    some_server.client().delete("maplefile:leader:lock")
    assert election.wait_for_leadership(GENEROUS)


def test_s06_one_connection_while_idle_and_none_of_the_clients(make: Make, some_server: RedisServer) -> None:
    admin = some_server.client()

    def connections() -> set[str]:
        return {client["id"] for client in admin.client_list()}

    before = connections()  # some of an earlier test may still be closed
    client = redis.Redis(port=some_server.port)
    election = make(client)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: len(connections() - before) == 1)
    assert client.connection_pool._created_connections == 0
    election.stop()
    eventually(lambda: not connections() - before)


def test_a_server_that_lets_nobody_wait_is_asked_no_more_often(make: Make, some_server: RedisServer) -> None:
    admin = some_server.client()
    admin.acl_setuser("nowait", enabled=True, nopass=True, commands=["+@all", "-blpop"], keys=["*"])
    election = make(redis.Redis(port=some_server.port, username="nowait", password="x"))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    before = admin.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    start = clock.now()
    eventually(lambda: clock.now() > start + 1.5)
    after = admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 6, "a heartbeat every 0.4 s"
    assert election.is_leader()
    election.stop()
    admin.acl_deluser("nowait")


def test_an_election_that_nobody_holds_is_still_there_to_be_stopped(some_server: RedisServer) -> None:
    election = LeaderElection(redis.Redis(port=some_server.port), Config(**FAST))  # type: ignore[arg-type]
    election.start()
    seen = weakref.ref(election)
    assert election.wait_for_leadership(GENEROUS)
    del election
    gc.collect()
    found = seen()
    assert found is not None
    found.stop()


def test_who_waits_for_leadership_follows_to_the_next_candidacy(make: Make, some_server: RedisServer) -> None:
    leader, election = make(), make()
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    election.start()
    waiting = threading.Thread(target=election.wait_for_leadership, args=[None])
    waiting.start()
    eventually(lambda: election._candidacy and election._candidacy.shared.attempts)
    election.stop()
    election.start()
    leader.stop()
    eventually(election.is_leader)
    waiting.join(GENEROUS)
    assert not waiting.is_alive()


def test_the_leader_changes_are_told_to_followers(make: Make) -> None:
    first, second = make(instance_id="first"), make(instance_id="second")
    told: list[tuple[str, str]] = []
    second.listen(lambda token: None, lambda token, reason: None, lambda old, new: told.append((old, new)))
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()
    eventually(lambda: told == [("", "first")])
    first.stop()
    eventually(lambda: told == [("", "first"), ("first", "second")])
