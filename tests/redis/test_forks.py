"""Forks of a process that has an election."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from django_leader.system.forks import Forked
from tests.redis.conftest import Make
from tests.support.servers import GENEROUS, RedisServer


def test_two_threads_that_find_themselves_in_a_fork_begin_one_candidacy(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            barrier, begun = threading.Barrier(2), list[Any]()

            def begin() -> None:
                barrier.wait()
                begun.append(election._begin())

            threads = [threading.Thread(target=begin) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            status = 42 if sum(one is not None for one in begun) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_s19_a_fork_before_the_first_start_takes_nothing_along(make: Make) -> None:
    election = make()
    before = election.instance_id
    election.after_fork()
    assert election.instance_id != before, "a generated name is not shared"
    election.start()
    assert election.wait_for_leadership(GENEROUS)


def test_s19_a_fork_without_hooks_is_found_at_the_next_start(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    before = election._candidacy
    assert before
    election._pid = before.shared.pid = 0  # as in a child that was forked in C
    assert not election.running
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert election._candidacy is not before


def test_s08_s19_a_loss_callback_that_forks_gives_nothing_back_in_the_child(
    make: Make, some_server: RedisServer
) -> None:
    election, seen = make(), list[Any]()

    def fork() -> None:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)  # the child goes on behind this callback, as we do, and ends with its only thread
            seen.append(some_server.client().hget(election.config.keys.state, "kind"))

    election.on_lose_leadership(fork)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    assert seen == [b"lease"]
    assert election.get_leader_id() == ""


def test_s19_what_is_inherited_of_a_candidacy_does_nothing_more(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for does in (candidacy._worker._turn, candidacy._worker.lease.status):
                with pytest.raises(Forked):
                    does()
            candidacy._worker.run("")
            status = 42 if (candidacy.shared.ended, election.is_leader()) == (True, False) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    assert election.is_leader()
