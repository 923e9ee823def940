"""A real leader that is stopped between its check and its write, while another process is elected."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.protocol import fence
from tests.support.candidates import Candidate
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST: dict[str, Any] = {"lock_ttl": 2, "heartbeat_interval": 0.3, "retry_interval": 0.2, "quarantine": 0}


def state_of(pid: int) -> str:
    """The letter in ``/proc``: T when the kernel has stopped it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the state of a process is read in /proc")
@pytest.mark.parametrize("writes", [True, False], ids=["it has written", "it has written nothing"])
@pytest.mark.parametrize("place", ["the election's database", "another database", "another server"])
def test_a_paused_leader_is_refused_when_another_leads(
    place: str, writes: bool, some_server: RedisServer, own_server: RedisServer
) -> None:
    """What it writes without a fence overwrites what its successor has written."""
    target = own_server if place == "another server" else some_server
    db = 3 if place == "another database" else 0
    client = redis.Redis(port=target.port, db=db)
    options = {"target": target.port, "db": db, **FAST}
    paused = Candidate(some_server.port, program="tests.support.writing_process", instance_id="paused", **options)
    successor = LeaderElection(redis.Redis(port=some_server.port), Config(instance_id="next", **FAST))
    fenced, gained = successor.fenced(client), threading.Event()
    successor.on_become_leader(gained.set)
    try:
        paused.hears("checked")
        eventually(lambda: state_of(paused.pid) == "T")
        successor.start()
        assert gained.wait(GENEROUS)
        if writes:
            client.set("unfenced", "new")
            fenced.set("fenced", "new")
        paused.thaw()
        said = paused.hears("refused")
        assert said["lost"] is True
        assert f"token {said['token']} was refused" in said["text"]
        assert client.get("unfenced") == b"late"
        assert client.get("fenced") == (b"new" if writes else None)
        assert client.exists(fence.mark_key(successor.config.keys)) == (place != "the election's database")
        fenced.set("fenced", "newer")
    finally:
        paused.close()
        successor.stop()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the state of a process is read in /proc")
def test_a_paused_leader_whose_mark_is_gone_is_refused(some_server: RedisServer, own_server: RedisServer) -> None:
    """All data of the other server are lost while it is paused, and its successor has not written there."""
    options = {"target": own_server.port, "db": 0, **FAST}
    paused = Candidate(some_server.port, program="tests.support.writing_process", instance_id="paused", **options)
    successor = LeaderElection(redis.Redis(port=some_server.port), Config(instance_id="next", **FAST))
    try:
        paused.hears("checked")
        eventually(lambda: state_of(paused.pid) == "T")
        successor.start()
        assert successor.wait_for_leadership(GENEROUS)
        own_server.client().flushall()
        paused.thaw()
        paused.hears("refused")
        assert own_server.client().keys() == [b"unfenced"]
    finally:
        paused.close()
        successor.stop()
