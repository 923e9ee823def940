"""``stop()``: from where it may be called, and which thread sends the release."""

from __future__ import annotations

import logging
import threading

import pytest
import redis

from django_leader import LeaderElection, LeaderError
from django_leader.runtime.candidacy import Candidacy
from django_leader.runtime.lifecycle import lifecycle
from tests.redis.conftest import Make, eventually_idle, on_release
from tests.support.servers import GENEROUS, RedisServer, eventually


def test_stop_is_idempotent_before_start_twice_and_from_two_threads(make: Make) -> None:
    election = make()
    election.stop()
    election.start()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    stops = [threading.Thread(target=election.stop) for _ in range(2)]
    for thread in stops:
        thread.start()
    for thread in stops:
        thread.join(GENEROUS)
        assert not thread.is_alive()
    election.stop()
    assert not election.running
    assert election.last_tick is None


@pytest.mark.parametrize("kind", ["gain", "loss"])
def test_stop_from_a_callback_does_not_hang(make: Make, kind: str) -> None:
    election, returned = make(), threading.Event()

    def stop() -> None:
        election.stop()
        returned.set()

    (election.on_become_leader if kind == "gain" else election.on_lose_leadership)(stop)
    election.start()
    if kind == "loss":
        assert election.wait_for_leadership(GENEROUS)
        election.resign()
    assert returned.wait(GENEROUS)
    eventually(lambda: not election.running)
    assert election.get_leader_id() == ""


def test_an_election_without_a_candidate_can_be_asked_to_stop(make: Make) -> None:
    election = make()
    election.ask_to_stop()
    assert not election.runs_here
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert not election.runs_here
    election.ask_to_stop()
    eventually(lambda: not election.running)


def test_after_the_end_of_the_interpreter_has_begun_nothing_starts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    monkeypatch.setattr(lifecycle, "exiting", False)
    lifecycle.exit()
    assert not election.is_leader()
    election.start()
    assert not election.running
    with pytest.raises(LeaderError, match=r"^LEADER_ELECTIONS\['default'\]: this process is exiting, so it cannot"):
        election.run()


def test_start_during_a_stop_makes_it_a_candidate_again(make: Make) -> None:
    election, again = make(), threading.Event()

    @election.on_lose_leadership
    def restart() -> None:
        if not again.is_set():
            again.set()
            election.stop()
            election.start()

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.resign()
    assert again.wait(GENEROUS)
    assert election.wait_for_leadership(GENEROUS)


def test_s08_what_runs_beyond_its_lease_is_not_released_early(make: Make) -> None:
    election, hold = make(), threading.Event()
    election.on_lose_leadership(lambda: hold.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    released = list[bytes]()
    on_release(candidacy, lambda request: released.append(request.template.words[13]))
    election.stop()
    assert released == [b"0"], "it leaves, and lets the lease run out"
    hold.set()


def note_who_releases(election: LeaderElection, threads: list[str]) -> Candidacy:
    """Notes the threads from which releases leave. Gives the candidacy."""
    candidacy = election._candidacy
    assert candidacy
    on_release(candidacy, lambda request: threads.append(threading.current_thread().name))
    return candidacy


@pytest.mark.parametrize("callbacks", [False, True])
def test_the_thread_that_has_nothing_else_to_do_sends_the_release(make: Make, callbacks: bool) -> None:
    """That of ``stop()`` if there are no loss callbacks, else the one that has called the last of them."""
    election = make()
    threads: list[str] = []
    if callbacks:
        election.on_lose_leadership(lambda: threads.append(threading.current_thread().name))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = note_who_releases(election, threads)
    eventually_idle(candidacy)
    election.stop()
    last = threading.current_thread().name if not callbacks else threads[0]
    assert threads == [last] * (1 + callbacks) + [f"{election.label} election"]
    assert election.get_leader_id() == ""


@pytest.mark.parametrize("callbacks", [False, True])
def test_a_slow_log_does_not_delay_the_next_leader(
    make: Make, caplog: pytest.LogCaptureFixture, callbacks: bool
) -> None:
    election = make()
    done: list[str] = []
    if callbacks:
        election.on_lose_leadership(lambda: None)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = note_who_releases(election, done)
    eventually_idle(candidacy)

    def note(record: logging.LogRecord) -> bool:
        done.append(record.getMessage().partition(" (")[0])
        return True

    caplog.handler.addFilter(note)
    with caplog.at_level(logging.INFO, "django_leader"):
        election.stop()
    line = f"{election.label}: lost leadership: resigned"
    assert done.count(line) == 1
    if not callbacks:  # with some, who calls may tell while they run
        assert done[:2] == [threading.current_thread().name, line]


def test_a_release_that_fails_in_stop_is_replaced_by_expiry(make: Make, own_server: RedisServer) -> None:
    election = make(redis.Redis(port=own_server.port), lock_ttl=1.0, heartbeat_interval=0.3)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    own_server.freeze()
    election.stop()
    own_server.thaw()
    assert not election.running
    assert not election.is_leader()
    eventually(lambda: election.get_leader_id() == "")


def test_who_stops_does_not_connect_for_it(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    threads: list[str] = []
    candidacy = note_who_releases(election, threads)
    with candidacy._worker._io_lock:
        candidacy._worker.lease.channel.drop()
    election.stop()
    assert set(threads) == {f"{election.label} election"}
    assert election.get_leader_id() == ""


def test_the_wait_for_loss_callbacks_is_explained_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    election, over = make(), threading.Event()
    election.explain_wait(2.0)  # of a process that is no candidate
    election.on_lose_leadership(lambda: over.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.explain_wait(2.0)  # nothing is waited for
    assert "waits for loss callbacks" not in caplog.text
    election.resign()
    try:
        for _ in range(2):
            election.explain_wait(2.0)
        lines = [record for record in caplog.records if "waits for loss callbacks" in record.getMessage()]
        assert [record.levelname for record in lines] == ["WARNING"]
        assert "another 2.0 s at most" in lines[0].getMessage()
    finally:
        over.set()
