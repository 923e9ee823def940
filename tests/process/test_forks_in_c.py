"""Greenlets that go on in the child of a fork in C, as uWSGI makes its workers, do nothing there (S6, S7, S16, S19)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from django_leader.system.clock import now
from tests.conftest import need
from tests.support.candidates import Candidate
from tests.support.servers import RedisServer, eventually

HEARTBEAT = 0.3
LONG = {"lock_ttl": 40.0, "heartbeat_interval": HEARTBEAT, "retry_interval": HEARTBEAT, "quarantine": 0}
"""A lease that runs out in no test, so that whatever ends a term is somebody's doing."""
SHORT = {"lock_ttl": 2.0, "same_host_takeover": False}
STATE = "{maplefile:leader:lock}:state"


class Fleet:
    """Candidates on greenlets, and the children that they fork, each of which is ended by its own pid."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.candidates: list[Candidate] = []
        self.children: list[int] = []

    def make(self, name: str, **options: Any) -> Candidate:
        options = {"program": "tests.support.gevent_process", "instance_id": name, **LONG, **options}
        self.candidates.append(Candidate(self.server.port, **options))
        return self.candidates[-1]

    def child_of(self, parent: Candidate, command: str = "fork in C") -> dict[str, Any]:
        parent.tell(command)
        return self.hears_child(parent)

    def hears_child(self, parent: Candidate) -> dict[str, Any]:
        child = parent.hears("child")
        self.children.append(child["pid"])
        return child

    def close(self) -> None:
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # first, since it keeps the pipe open that its parent writes to
        for candidate in self.candidates:
            candidate.close()


class Monitor:
    """What a server is asked, from now on."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(b"MONITOR\r\n")
        self._read = bytearray()
        self._reader = threading.Thread(target=self._run, daemon=True)
        self._reader.start()
        eventually(lambda: self._read.startswith(b"+OK"))

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self._read += data

    def numbers(self, name: str) -> list[str]:
        """The numbers of the requests of the candidate ``name``, as they came.

        Not those that repeat a script which the server did not know, under the same number.
        """
        return re.findall(rf'"EVALSHA" .* "(1\d{{11}})" "{name}:', self._read.decode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()


@pytest.fixture
def fleet(own_server: RedisServer) -> Iterator[Fleet]:
    need(find_spec("gevent") is not None, "gevent")
    made = Fleet(own_server)
    yield made
    made.close()


@pytest.fixture
def monitor(own_server: RedisServer) -> Iterator[Monitor]:
    made = Monitor(own_server)
    yield made
    made.close()


def history(server: RedisServer) -> list[tuple[str, str]]:
    """Kind of each change and instance id, the oldest first."""
    entries: Any = server.client().xrange("{maplefile:leader:lock}:events")
    return [(v[b"kind"].decode(), v[b"holder"].decode().partition(":")[0]) for _, v in entries]


def pass_time(seconds: float) -> None:
    until = now() + seconds
    eventually(lambda: now() > until, timeout=seconds + 20.0)


def check_silent(parent: Candidate, child: int) -> None:
    """The child has said nothing, and the parent has had no trouble."""
    assert [one for one in parent.pending() if one["pid"] == child] == []
    check_untroubled(parent)


def check_untroubled(parent: Candidate) -> None:
    """No request has failed, be it in the parent or in a child. A test that stops the parent makes heartbeats late."""
    warned = [one["text"] for one in parent.pending() if one.get("level", "INFO") != "INFO"]
    assert [text for text in warned if not re.search(r"a heartbeat is .* late", text)] == []


def alive(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")


def check_each_once(monitor: Monitor, name: str, since: int) -> None:
    """A child goes on with the numbers of its parent, so whatever it asked came with a number a second time."""
    assert [number for number, times in Counter(monitor.numbers(name)[since:]).items() if times > 1] == []


def test_s19_a_leader_that_forks_in_c_under_gevent_keeps_its_term(
    fleet: Fleet, own_server: RedisServer, monitor: Monitor
) -> None:
    leader = fleet.make("first")
    token = leader.hears("gain")["token"]
    asked = len(monitor.numbers("first"))
    child = fleet.child_of(leader)
    assert (child["leads"], child["running"]) == (False, False)
    eventually(lambda: len(monitor.numbers("first")) > asked + 6)
    check_each_once(monitor, "first", asked)
    verdict = leader.verdict()
    assert (verdict["leads"], verdict["token"]) == (True, token)
    check_silent(leader, child["pid"])
    assert alive(child["pid"])
    assert history(own_server) == [("elected", "first")]
    leader.tell("stop")
    leader.hears("stopped")
    check_silent(leader, child["pid"])
    assert history(own_server) == [("elected", "first"), ("resigned", "first")]


@pytest.mark.parametrize("how", [SHORT, {}], ids=["when the lease ends", "at once"])
def test_s19_a_child_forked_in_c_keeps_no_lease_of_a_killed_leader(
    fleet: Fleet, own_server: RedisServer, monitor: Monitor, how: dict[str, Any]
) -> None:
    leader = fleet.make("first", **how)
    leader.hears("gain")
    follower = fleet.make("second", **how)
    follower.hears("change", current="first")
    before = len(monitor.numbers("first"))
    child = fleet.child_of(leader)
    leader.kill()
    asked = len(monitor.numbers("first"))
    assert follower.hears("gain")["leads"]
    pass_time(3 * HEARTBEAT)
    assert len(monitor.numbers("first")) <= asked + 1, "the last request of the leader may still have been on its way"
    check_each_once(monitor, "first", before)
    check_silent(leader, child["pid"])
    assert alive(child["pid"])
    assert history(own_server) == [("elected", "first"), ("taken-over", "second")]


def test_s06_a_reply_read_by_a_child_forked_in_c_costs_one_try(
    fleet: Fleet, own_server: RedisServer, monitor: Monitor
) -> None:
    """The parent is stopped while the reply to a heartbeat comes, so that the child has it alone."""
    leader = fleet.make("first")
    token = leader.hears("gain")["token"]
    own_server.freeze()
    pass_time(2 * HEARTBEAT)  # a heartbeat waits for its reply
    asked = len(monitor.numbers("first"))
    child = fleet.child_of(leader)
    leader.freeze()
    own_server.thaw()
    pass_time(2 * HEARTBEAT)
    leader.thaw()
    thawed_at = now()
    eventually(
        lambda: (v := leader.verdict())["left"] > 0 and v["at"] + v["left"] > thawed_at + LONG["lock_ttl"] * 0.97
    )
    assert leader.verdict()["token"] == token
    check_each_once(monitor, "first", asked)
    assert [one for one in leader.pending() if one["pid"] == child["pid"]] == [], "the child does nothing with it"
    assert history(own_server) == [("elected", "first")]


def test_s06_a_child_forked_in_c_takes_no_wake_up_of_its_parent(fleet: Fleet, own_server: RedisServer) -> None:
    """As above, of a follower whose wait at Redis ends."""
    leader = fleet.make("first")
    leader.hears("gain")
    follower = fleet.make("second", retry_interval=10.0)
    follower.hears("change", current="first")
    eventually(lambda: any("b" in client["flags"] for client in own_server.client().client_list()))
    child = fleet.child_of(follower)
    follower.freeze()
    leader.tell("stop")
    leader.hears("stopped")
    pass_time(2 * HEARTBEAT)
    before = now()
    follower.thaw()
    assert follower.hears("gain", pid=follower.pid)["at"] < before + 5.0, "woken, and not at its next poll"
    check_silent(follower, child["pid"])
    assert history(own_server) == [("elected", "first"), ("resigned", "first"), ("elected", "second")]


def test_s16_a_gain_callback_that_forks_leaves_the_term_to_the_parent(
    fleet: Fleet, own_server: RedisServer, monitor: Monitor
) -> None:
    """It forks in C while the term is announced, and returns in the child."""
    leader = fleet.make("first", in_callback={"gain": "fork in C and return"})
    token = leader.hears("gain", pid=leader.pid)["token"]
    child = fleet.hears_child(leader)
    asked = len(monitor.numbers("first"))
    eventually(lambda: len(monitor.numbers("first")) > asked + 3)
    check_each_once(monitor, "first", asked)
    verdict = leader.verdict()
    assert (verdict["leads"], verdict["token"]) == (True, token)
    check_silent(leader, child["pid"])
    assert alive(child["pid"])
    assert history(own_server) == [("elected", "first")]


def test_s16_a_loss_callback_that_forks_leaves_the_release_to_the_parent(
    fleet: Fleet, own_server: RedisServer, monitor: Monitor
) -> None:
    """It forks in C, and returns in the child."""
    leader = fleet.make("first", in_callback={"loss": "fork in C and return"})
    leader.hears("gain")
    before = len(monitor.numbers("first"))
    leader.tell("stop")
    child = fleet.hears_child(leader)
    leader.hears("loss", pid=leader.pid)
    leader.hears("stopped", pid=leader.pid)
    pass_time(3 * HEARTBEAT)
    check_each_once(monitor, "first", before)
    check_untroubled(leader)
    assert [one["event"] for one in leader.pending() if one["pid"] == child["pid"]] in ([], ["stopped"]), (
        "the command that waited for the stop returns in the child, too"
    )
    assert history(own_server) == [("elected", "first"), ("resigned", "first")]


def test_s07_a_child_forked_in_c_under_gevent_is_another_candidate(
    fleet: Fleet, own_server: RedisServer, monitor: Monitor
) -> None:
    leader = fleet.make("", **LONG)
    token = leader.hears("gain")["token"]
    name = leader.hears("ready")["instance_id"]
    before = len(monitor.numbers(name))
    child = fleet.child_of(leader, "fork in C and start")
    assert (child["leads"], child["running"]) == (False, True)
    assert child["name"] != name
    leader.hears("change", pid=child["pid"], current=name)
    asked = len(monitor.numbers(name))
    eventually(lambda: len(monitor.numbers(name)) > asked + 3)
    check_each_once(monitor, name, before)
    verdict = leader.verdict()
    assert (verdict["leads"], verdict["token"]) == (True, token)
    check_untroubled(leader)
    leader.kill()
    assert leader.hears("gain", pid=child["pid"])["token"] > token
    assert history(own_server) == [("elected", name), ("taken-over", child["name"])]
