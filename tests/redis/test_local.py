"""An election within one process: the same candidate, and no server."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_leader import Config, LeaderElection
from django_leader.protocol.records import NO_PRECONDITIONS, LeaderInfo, Preconditions
from django_leader.runtime.local import Local, LocalLease
from django_leader.system import clock
from django_leader.system.starts import starts
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, eventually

FAST: dict[str, Any] = {"lock_ttl": 3, "heartbeat_interval": 0.2, "retry_interval": 0.2, "quarantine": 60}
INFO = LeaderInfo("me")


@pytest.fixture
def election() -> Iterator[LeaderElection]:
    election = LeaderElection(Local(), Config(**FAST))
    yield election
    election.stop()


def test_it_leads_at_once_and_renews(election: LeaderElection) -> None:
    assert election.status().leader is None
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    beats: set[Any] = set()
    eventually(lambda: beats.add(election.get_leader_info().last_heartbeat) or len(beats) > 3, "heartbeats")  # type: ignore[func-returns-value,union-attr]
    status = election.status()
    assert status.leader
    assert (status.leader.instance_id, status.leader.fencing_token) == (election.instance_id, token)
    assert (status.candidates, status.fencing_token, status.quarantined) == (1, token, False)
    assert election.outage == ""


def test_gain_and_loss_come_in_pairs_and_tokens_grow(election: LeaderElection) -> None:
    told: list[tuple[str, int]] = []
    election.listen(
        lambda token: told.append(("gain", token)), lambda token, reason: told.append((reason, token)), lambda *_: None
    )
    election.start()
    for count in (2, 4, 6):
        assert election.wait_for_leadership(GENEROUS)
        eventually(lambda: len(told) == count - 1)  # noqa: B023
        assert election.resign()
        eventually(lambda: len(told) == count)  # noqa: B023
    tokens = [token for _, token in told]
    assert [what for what, _ in told] == ["gain", "resigned"] * 3
    assert tokens[::2] == tokens[1::2] == sorted(set(tokens))
    eventually(lambda: len(election.history()) >= 6)
    assert [event.kind for event in election.history()][-2:] == ["resigned", "elected"]
    assert len(election.history(2)) == 2


def test_a_hold_lasts_within_the_process(election: LeaderElection) -> None:
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop(hold=3600.0)
    held = election.status()
    assert held.leader is None
    assert 3600 - GENEROUS < held.lease_left <= 3600
    election.start()
    assert election.wait_for_leadership(0) is False
    assert 3600 - GENEROUS < election.hold_left <= 3600


def test_a_hold_within_the_process_ends(election: LeaderElection) -> None:
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    at = clock.now()
    election.stop(hold=0.5)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert clock.now() - at > 0.5


def test_production_settings_with_replicas_work_locally() -> None:
    election = LeaderElection(Local(), Config(**FAST, min_replicas=1))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()


def test_another_candidacy_of_the_process_waits_for_the_first() -> None:
    local, config = Local(), Config(**FAST).validate()
    first, second = Lease(local, config), Lease(local, config)
    assert isinstance(first.lease, LocalLease)
    granted = first.campaign("a:1", NO_PRECONDITIONS, INFO)
    assert granted.verdict == "granted"
    held = second.campaign("b:2", Preconditions(unrecorded_end=(5, "expired")), INFO)
    assert (held.verdict, held.holder, held.token) == ("held", "a:1", granted.token)
    assert second.renew("b:2", granted.token, INFO).verdict == "refused"
    assert second.release("b:2", granted.token, "resigned", leave=True) is False
    assert second.poll("b:2", 0) is None
    assert first.renew("a:1", granted.token, INFO).verdict == "renewed"
    assert first.release("a:1", granted.token, "resigned", leave=False) is True
    assert second.campaign("b:2", Preconditions(highest_token=2**52), INFO).token == 2**52 + 1
    assert [event.kind for event in first.history(9)] == ["elected", "resigned", "expired", "elected"]


def test_s19_a_child_of_a_fork_begins_with_nothing(election: LeaderElection) -> None:
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    reader, writer = os.pipe()
    local = election._connect()
    assert isinstance(local, Local)
    with local.lock:  # as a thread that the child does not have may hold it
        pid = os.fork()
        if not pid:
            said = b"%d%d" % (election.is_leader(), election.status().leader is not None)
            election.start()
            os.write(writer, said + b"%d" % election.wait_for_leadership(GENEROUS))
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 9) == b"001"
    os.close(reader)
    os.close(writer)
    assert election.is_leader()


@pytest.mark.parametrize("refused", ["news", "gain"])
def test_no_line_is_written_under_the_lock(
    election: LeaderElection, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """A handler of the log may block, and whoever notices the end of the term waits for the lock."""
    lines: list[tuple[bool, str]] = []
    eventually(all_started, "of which a test before has left some, and of which nothing is said again")
    start = threading.Thread.start

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if candidacy := election._candidacy:
                lock: Any = candidacy.shared.changed
                lines.append((lock._is_owned(), record.getMessage()))

    def start_or_refuse(thread: threading.Thread) -> None:
        if thread.name.endswith(f" {refused}") and election.is_leader():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    election.on_become_leader(lambda: None)
    election.listen(lambda token: None, lambda token, reason: None, lambda previous, current: None)
    logger, note = logging.getLogger("django_leader"), Note()
    logger.addHandler(note)
    try:
        election.start()
        eventually(lambda: [text for _, text in lines if "can't start new thread" in text])
        election.stop()
    finally:
        logger.removeHandler(note)
        monkeypatch.undo()
        eventually(all_started)
    assert [text for held, text in lines if held] == []


def all_started() -> bool:
    starts.retry()
    return not starts.busy


def test_no_thread_and_no_connection_is_left(election: LeaderElection) -> None:
    before = threading.active_count()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    eventually(lambda: threading.active_count() <= before)
