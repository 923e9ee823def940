"""What a child of a fork must not do for its parent. The child is invented; real ones are in tests/process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from django_leader import Config, LeaderElection, LeaderError
from django_leader.system.forks import Forked, check, close_silently, register
from django_leader.system.waker import Waker

LONG = 20.0


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Has this process be another one from now on."""
    with monkeypatch.context() as patch:
        yield lambda: patch.setattr(os, "getpid", lambda: -1)


Fork = Callable[[], None]


def test_a_process_is_told_from_its_child(fork: Fork) -> None:
    pid = os.getpid()
    check(pid)
    fork()
    with pytest.raises(Forked):
        check(pid)


def test_what_is_no_socket_is_left_as_it_is() -> None:
    """As of fakeredis."""
    close_silently("no socket")


def test_s19_a_child_neither_wakes_its_parent_nor_takes_its_wake_up(fork: Fork) -> None:
    waker = Waker()
    waker.set()
    fork()
    with pytest.raises(Forked):
        waker.wait(0.0)
    waker._pid = -1
    assert waker.wait(0.0) == (True, False), "still there"
    waker._pid = 0
    waker.set()
    waker._pid = -1
    assert waker.wait(0.0) == (False, False)
    waker.close()


def test_s19_a_fork_during_a_wait_is_seen_before_its_wake_up(fork: Fork) -> None:
    waker = Waker()

    def fork_and_wake() -> None:
        fork()
        waker._writer.send(b"!")  # as the parent does

    threading.Timer(0.05, fork_and_wake).start()
    with pytest.raises(Forked):
        waker.wait(LONG)
    waker._pid = -1
    assert waker.wait(0.0) == (True, False)
    waker.close()


def test_on_a_platform_without_what_an_election_needs_it_does_not_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    election = LeaderElection(redis.Redis(), Config())
    monkeypatch.delattr(os, "register_at_fork")
    election.start()
    assert not election.running
    assert (
        "LEADER_ELECTIONS['default']: this process is not participating: "
        "Python lacks os.register_at_fork on this platform" in caplog.text
    )
    with pytest.raises(
        LeaderError, match=r"^LEADER_ELECTIONS\['default'\]: this process cannot participate: Python lacks"
    ):
        election.run()
    register(after_in_child=election.run)
