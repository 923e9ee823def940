"""What a follower sees and hears while it waits: the death of the leader's process, and messages."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.protocol.config import inbox
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.redis.connector import connector
from django_leader.system import clock, pidfd
from testproject.embedded import die_with_parent
from tests.conftest import need
from tests.support.candidates import ROOT
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, RedisServer, eventually

A = "a:" + "0" * 16
LONG = Config(lock_ttl=60, heartbeat_interval=0.3, retry_interval=0.2, quarantine=0)
INFO = LeaderInfo("a")

Make = Callable[..., LeaderElection]


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    """Makes elections on a real server, and stops them."""
    made: list[LeaderElection] = []

    def make(user: str | None = None, **options: Any) -> LeaderElection:
        client = redis.Redis(port=some_server.port, username=user, password=user)
        made.append(LeaderElection(client, Config(**{**vars(LONG), **options})))
        return made[-1]

    yield make
    for election in made:
        election.stop()


@pytest.fixture
def lease(some_server: RedisServer) -> Iterator[Lease]:
    """Of whoever leads elsewhere."""
    lease = Lease(connector(some_server.client().connection_pool), LONG.validate())
    yield lease
    lease.channel.drop()


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process that has said who it is."""
    need(not pidfd.unsupported(), "a kernel with pidfd_open")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.holder_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    ) as holder:
        yield holder
        holder.kill()


@pytest.fixture
def token(lease: Lease, holder: subprocess.Popen[str]) -> int:
    """``A`` leads, in the process ``holder``; its token."""
    assert holder.stdout
    lease.process = holder.stdout.readline().strip().strip('"')
    assert pidfd.Identity.from_text(lease.process)
    return lease.campaign(A, Preconditions(), INFO).token


def pidfds() -> set[str]:
    """The pidfds of this process, those of other tests' elections among them."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "pidfd" in os.readlink(link):
                found.add(link.name)
    return found


def watches(pid: int) -> str:
    """The descriptor by which this process watches that one; empty if it does not."""
    for name in pidfds():
        with contextlib.suppress(FileNotFoundError):
            if f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{name}").read_text():
                return name
    return ""


def test_s24_a_follower_takes_over_when_the_leaders_process_dies(
    make: Make, lease: Lease, holder: subprocess.Popen[str], token: int
) -> None:
    election = make()
    election.start()
    assert not election.wait_for_leadership(0)
    descriptor = eventually(lambda: watches(holder.pid), "the leader is watched")
    holder.kill()
    assert election.wait_for_leadership(GENEROUS)
    assert election.fencing_token
    assert election.fencing_token > token
    assert (lease.history(1)[0].kind, lease.history(1)[0].reason) == ("taken-over", "died")
    eventually(lambda: descriptor not in pidfds(), "nobody is watched by a leader")


def test_s24_a_newcomer_replaces_a_zombie_leader_in_its_first_attempt(
    make: Make, holder: subprocess.Popen[str], token: int
) -> None:
    me = pidfd.own()
    need(me and me.inode, "a kernel with pidfs")
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    election = make()
    election.start()
    assert election.wait_for_leadership(0)


def test_s24_a_newcomer_does_not_lead_when_the_leader_is_gone(
    make: Make, holder: subprocess.Popen[str], token: int
) -> None:
    holder.kill()
    holder.wait()
    election = make()
    election.start()
    assert not election.wait_for_leadership(0)
    assert not election.wait_for_leadership(3 * LONG.validate().timing.retry), "nor at its next polls"


def test_s25_a_claim_that_is_refused_is_not_made_again_and_again(
    make: Make, lease: Lease, some_server: RedisServer, holder: subprocess.Popen[str], token: int
) -> None:
    election = make()
    election.start()
    assert not election.wait_for_leadership(0)
    client = some_server.client()
    client.hset(
        LONG.keys.state, "kind", "reclaimed"
    )  # as after a reclaim of which no heartbeat has shown that it counted
    client.config_resetstat()
    start = clock.now()
    holder.kill()
    eventually(lambda: clock.now() > start + 1.5)
    asked = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert 2 <= asked <= 2 + (clock.now() - start) / LONG.validate().timing.retry, (
        "the claim, and a poll per retry interval"
    )
    assert not election.is_leader()
    client.hset(LONG.keys.state, "kind", "lease")
    assert lease.campaign("b:" + "0" * 16, Preconditions(dead=(A, token)), INFO).verdict == "granted", "it was its time"


def test_s26_who_is_told_not_to_neither_publishes_nor_claims(
    make: Make, some_server: RedisServer, holder: subprocess.Popen[str], token: int
) -> None:
    election = make(same_host_takeover=False)
    election.start()
    holder.kill()
    holder.wait()
    assert not election.wait_for_leadership(0)
    some_server.client().flushall()
    assert election.wait_for_leadership(GENEROUS)
    assert some_server.client().hget(LONG.keys.state, "process") == b""


def test_s24_where_no_death_can_be_proved_nothing_is_published(
    make: Make, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert some_server.client().hget(LONG.keys.state, "process") == b""


def test_s07_two_of_one_name_hear_of_each_other(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("django_leader"), "propagate", True)
    first, second = make(instance_id="twin"), make(instance_id="twin")
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()

    def warnings() -> int:
        return sum(record.levelno == logging.WARNING and "INSTANCE_ID" in record.message for record in caplog.records)

    eventually(lambda: warnings() == 2, "both are warned")


def test_a_follower_that_may_not_wait_at_redis_looks_and_leads_later(
    make: Make, some_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("django_leader"), "propagate", True)
    caplog.set_level(logging.INFO, "django_leader")
    admin = some_server.client()
    admin.acl_setuser("deaf", enabled=True, passwords=["+deaf"], commands=["+@all", "-blpop"], keys=["*"])
    leader, deaf = make(), make(user="deaf")
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    deaf.start()
    said = "BLPOP was refused"
    eventually(lambda: said in caplog.text, "it says so")
    last = admin.info("commandstats")["cmdstat_blpop"]["rejected_calls"]
    eventually(lambda: admin.info("commandstats")["cmdstat_blpop"]["rejected_calls"] > last, "it tries again")
    leader.stop()
    assert deaf.wait_for_leadership(GENEROUS)
    deaf.stop()
    assert caplog.text.count(said) == 1
    admin.acl_deluser("deaf")


def test_garbage_in_its_inbox_leaves_a_follower_where_it_is(
    make: Make, some_server: RedisServer, holder: subprocess.Popen[str], token: int
) -> None:
    election = make(instance_id="b")
    election.start()
    assert not election.wait_for_leadership(0)
    client = some_server.client()
    found: Any = client.zrange(LONG.keys.candidates, 0, -1)
    [me] = [name.decode() for name in found if name.startswith(b"b:")]
    for garbage in ("", "[1]", '{"duplicate": 5}'):
        client.rpush(inbox(LONG.keys, me), garbage)
        eventually(lambda: not client.exists(inbox(LONG.keys, me)), "it was taken")
    assert not election.wait_for_leadership(0)
    holder.kill()
    assert election.wait_for_leadership(GENEROUS)
