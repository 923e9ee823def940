"""A leader that dies with a candidate on its host, and leaders that only look as if: real processes.

A lease lasts a minute here, more than any condition is waited for: whoever leads before its end has taken it over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_leader.system import pidfd
from django_leader.system.clock import now
from django_leader.system.pidfd import Identity
from tests.conftest import need
from tests.support.candidates import Candidate
from tests.support.servers import RedisServer, eventually

LONG = {"lock_ttl": 60, "heartbeat_interval": 0.3, "retry_interval": 0.1, "quarantine": 0}
SHORT = {"lock_ttl": 3.0}  # for what must wait until the lease has run out
ROOT = "{maplefile:leader:lock}"
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork", "--kill-child"]
DIED = ("taken-over", "died")
SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000  # linux/ptrace.h, linux/wait.h

Make = Callable[..., Candidate]


@pytest.fixture
def candidate(own_server: RedisServer) -> Iterator[Make]:
    """Makes candidates, and ends them."""
    need(not pidfd.unsupported(), "a kernel with pidfd_open")
    made: list[Candidate] = []

    def make(instance_id: str, **options: Any) -> Candidate:
        made.append(Candidate(own_server.port, **{**LONG, "instance_id": instance_id, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def pair(candidate: Make) -> tuple[Candidate, Candidate]:
    """A leader, and a follower that watches it."""
    return leader_and_follower(candidate)


def leader_and_follower(candidate: Make, **options: Any) -> tuple[Candidate, Candidate]:
    """It is watched once it is known to lead."""
    first = candidate("first", **options)
    first.hears("gain")
    return first, follower(candidate, "second", **options)


def follower(candidate: Make, name: str, **options: Any) -> Candidate:
    made = candidate(name, **options)
    made.hears("change", current="first")
    return made


def state(server: RedisServer, field: str) -> str:
    value: Any = server.client().hget(f"{ROOT}:state", field)
    return (value or b"").decode()


def history(server: RedisServer) -> list[tuple[str, str]]:
    """Kind and reason of each change, the oldest first."""
    entries: Any = server.client().xrange(f"{ROOT}:events")
    return [(values[b"kind"].decode(), values[b"reason"].decode()) for _, values in entries]


def changes(server: RedisServer, read: Callable[[], object], times: int = 5) -> None:
    """Waits until what is read has changed so often."""
    for _ in range(times):
        before = read()
        eventually(lambda before=before: read() != before, "it changes once more")  # type: ignore[misc]


def polls(server: RedisServer, name: str) -> None:
    """Waits until the follower has polled several times: each poll lengthens its time among the candidates."""
    client = server.client()

    def counts_until() -> float:
        found: Any = client.zrange(f"{ROOT}:candidates", 0, -1, withscores=True)
        return max((score for me, score in found if me.startswith(name.encode() + b":")), default=0.0)

    changes(server, counts_until)


def renewals(server: RedisServer) -> None:
    """Waits until the lease was renewed several times."""
    changes(server, lambda: state(server, "until"))


def follows(server: RedisServer, second: Candidate, name: str = "second") -> None:
    """It goes on polling, and takes nothing over."""
    token = state(server, "token")
    polls(server, name)
    assert second.verdict()["leads"] is False
    assert state(server, "token") == token
    assert [said for said in second.pending() if said["event"] == "gain"] == []
    assert DIED not in history(server)


def takes_over(server: RedisServer, second: Candidate) -> None:
    second.hears("gain")
    assert second.verdict()["leads"] is True
    assert history(server)[-1] == DIED


def descriptors(one: Candidate) -> list[str]:
    found = []
    for link in Path(f"/proc/{one.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(link))
    return found


def pidfds(one: Candidate) -> int:
    return sum("pidfd" in target for target in descriptors(one))


def sockets(one: Candidate) -> int:
    return sum(target.startswith("socket:") for target in descriptors(one))


def test_s24_the_death_of_a_leader_is_seen_and_its_lease_taken_over(
    pair: tuple[Candidate, Candidate], own_server: RedisServer
) -> None:
    first, second = pair
    left = first.verdict()
    assert left["left"] > 50
    os.kill(first.pid, signal.SIGKILL)
    gain = second.hears("gain")
    assert gain["token"] > left["token"]
    assert gain["at"] < left["at"] + left["left"], "its lease still went on"
    assert Path(f"/proc/{first.pid}").exists(), "it is a zombie: nobody has reaped it yet"
    assert history(own_server) == [("elected", ""), DIED]
    second.tell("stop")
    second.hears("loss", reason="resigned")


def test_s24_a_newcomer_that_has_not_seen_the_leader_alive_takes_nothing_over(
    candidate: Make, own_server: RedisServer
) -> None:
    first = candidate("first")
    first.hears("gain")
    first.kill()
    newcomer = candidate("newcomer", attempt=True)
    assert newcomer.hears("attempted")["leads"] is False, "in its first attempt"
    follows(own_server, newcomer, "newcomer")


def test_s24_a_newcomer_after_the_leaders_death_waits_a_whole_lease(candidate: Make, own_server: RedisServer) -> None:
    """It has not seen the leader alive."""
    first = candidate("first", **SHORT)
    first.hears("gain")
    left = first.verdict()
    first.kill()
    began = now()
    newcomer = candidate("newcomer", **SHORT)
    assert newcomer.hears("gain")["at"] > max(began + SHORT["lock_ttl"], left["at"] + left["left"])
    assert history(own_server) == [("elected", ""), ("taken-over", "")]


def test_s24_a_leader_seen_alive_in_an_earlier_term_is_replaced_at_once(
    candidate: Make, own_server: RedisServer
) -> None:
    first, second = leader_and_follower(candidate, retry_interval=1.0)  # after which the loser campaigns again, too
    for loser, winner, name in ((first, second, "second"), (second, first, "first")):
        loser.tell("resign")
        winner.hears("gain")
        loser.hears("change", current=name)
    second.freeze()
    first.kill()
    second.thaw()
    takes_over(own_server, second)


def a_free_pid() -> int:
    return next(pid for pid in range(2**22 - 1, 0, -1) if not Path(f"/proc/{pid}").exists())


CLONES: dict[str, Callable[[Identity], Identity]] = {
    "a process that does not exist here": lambda leader: leader._replace(pid=a_free_pid()),
    "a machine that was resumed at another time": lambda leader: leader._replace(booted=leader.booted + 5000),
    "a process that starts in an hour": lambda leader: leader._replace(started=leader.started + 3600 * 100),
}
"""What the leader publishes instead, as on another machine that was resumed from the same snapshot: all but this is
equal there."""


@pytest.mark.parametrize("clone", CLONES)
def test_s23_a_leader_on_a_clone_of_this_machine_is_not_taken_over(
    candidate: Make, own_server: RedisServer, clone: str
) -> None:
    first = candidate("first", **SHORT)
    first.hears("gain")
    published = Identity.from_text(state(own_server, "process"))
    assert published
    text = CLONES[clone](published).to_text()
    own_server.client().hset(f"{ROOT}:state", "process", text)
    newcomer = follower(candidate, "newcomer", **SHORT)
    follows(own_server, newcomer, "newcomer")
    assert first.verdict()["leads"] is True
    assert pidfds(newcomer) == 0
    renewals(own_server)
    assert state(own_server, "process") == text, "nothing has published it anew"
    waits_for_the_end(own_server, first, newcomer)


def test_s25_one_of_several_claimers_leads_and_the_others_follow_it(candidate: Make, own_server: RedisServer) -> None:
    first, second = leader_and_follower(candidate)
    both = {"second": second, "third": follower(candidate, "third")}
    first.kill()
    eventually(lambda: history(own_server)[-1] == DIED, "somebody has taken over")
    leader = own_server.client().get("maplefile:leader:lock").decode().partition(":")[0]  # type: ignore[union-attr]
    other = next(name for name in both if name != leader)
    both[leader].hears("gain")
    both[other].hears("change", current=leader)
    polls(own_server, other)
    assert (both[leader].verdict()["leads"], both[other].verdict()["leads"]) == (True, False)
    assert history(own_server) == [("elected", ""), DIED]
    both[leader].kill()
    takes_over(own_server, both[other])


def test_s24_a_stopped_leader_is_not_taken_over_before_it_is_killed(
    pair: tuple[Candidate, Candidate], own_server: RedisServer
) -> None:
    first, second = pair
    first.freeze()
    follows(own_server, second)
    first.kill()
    takes_over(own_server, second)


@contextlib.contextmanager
def traced(pid: int) -> Iterator[None]:
    """Every thread of a child of ours stands still, as under a debugger."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    threads = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    for thread in threads:
        if ptrace(SEIZE, thread, None, None):
            pytest.skip(f"ptrace is not permitted here: {os.strerror(ctypes.get_errno())}")
        assert ptrace(INTERRUPT, thread, None, None) == 0
        os.waitpid(thread, WALL)
    yield
    for thread in threads:
        assert ptrace(DETACH, thread, None, None) == 0


def test_s24_a_traced_leader_is_not_taken_over(pair: tuple[Candidate, Candidate], own_server: RedisServer) -> None:
    first, second = pair
    with traced(first.pid):
        follows(own_server, second)
    assert first.verdict()["leads"] is True
    first.kill()
    takes_over(own_server, second)


def test_s24_a_leader_that_executes_another_program_is_not_dead(
    pair: tuple[Candidate, Candidate], own_server: RedisServer
) -> None:
    """It is replaced when that program ends."""
    first, second = pair
    first.tell("exec")
    first.hears("again")
    follows(own_server, second)
    first.kill()
    takes_over(own_server, second)


def test_s24_a_leader_whose_main_thread_has_ended_leads_on(
    pair: tuple[Candidate, Candidate], own_server: RedisServer
) -> None:
    first, second = pair
    first.tell("end the main thread")
    stat = Path(f"/proc/{first.pid}/stat")
    eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "/proc calls it a zombie")
    follows(own_server, second)
    renewals(own_server)
    assert history(own_server) == [("elected", "")]
    first.kill()
    takes_over(own_server, second)


def test_s24_a_living_process_with_the_dead_leaders_pid_proves_nothing(
    candidate: Make, own_server: RedisServer
) -> None:
    """The published pid is made that of another process, as if the kernel had used it again."""
    first = candidate("first")
    first.hears("gain")
    first.kill()
    published = Identity.from_text(state(own_server, "process"))
    assert published
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        own_server.client().hset(f"{ROOT}:state", "process", published._replace(pid=other.pid).to_text())
        newcomer = follower(candidate, "newcomer")
        follows(own_server, newcomer, "newcomer")
        other.kill()
    follows(own_server, newcomer, "newcomer")


def waits_for_the_end(server: RedisServer, first: Candidate, second: Candidate) -> None:
    """Kills the leader, of which the follower learns by nothing but time."""
    left = first.verdict()
    first.kill()
    assert second.hears("gain")["at"] > left["at"] + left["left"]
    assert history(server) == [("elected", ""), ("taken-over", "")]


@pytest.mark.parametrize("inside", ["first", "second"])
def test_s23_a_leader_of_another_pid_namespace_is_not_watched(
    candidate: Make, own_server: RedisServer, inside: str
) -> None:
    around = [*UNSHARE, "--mount-proc"]
    trial = subprocess.run([*around, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"no pid namespace may be made here: {trial.stderr.strip()}")
    first = candidate("first", **SHORT, around=around if inside == "first" else ())
    first.hears("gain")
    second = follower(candidate, "second", **SHORT, around=around if inside == "second" else ())
    assert state(own_server, "process")
    waits_for_the_end(own_server, first, second)


def test_s26_a_leader_that_says_so_is_not_taken_over_when_it_dies(candidate: Make, own_server: RedisServer) -> None:
    """As where it has children that work on."""
    first = candidate("first", **SHORT, same_host_takeover=False)
    first.hears("gain")
    assert state(own_server, "process") == ""
    second = follower(candidate, "second", **SHORT)
    assert pidfds(second) == 0
    waits_for_the_end(own_server, first, second)


def test_s26_a_follower_that_says_so_takes_nothing_over(candidate: Make, own_server: RedisServer) -> None:
    first = candidate("first", **SHORT)
    first.hears("gain")
    assert state(own_server, "process")
    second = follower(candidate, "second", **SHORT, same_host_takeover=False)
    assert pidfds(second) == 0
    waits_for_the_end(own_server, first, second)


def test_s26_the_death_of_a_process_says_nothing_of_its_children(
    pair: tuple[Candidate, Candidate], own_server: RedisServer
) -> None:
    """What the setting is for: unless it is off, the lease is taken over while the child works on."""
    first, second = pair
    first.tell("leave a child")
    child = first.hears("child")["pid"]
    try:
        follows(own_server, second)
        assert first.verdict()["leads"] is False, "S19: it is the child that answers"
        first.kill()
        takes_over(own_server, second)
        assert first.verdict()["leads"] is False
    finally:
        os.kill(child, signal.SIGKILL)


def test_s25_who_dies_while_nobody_may_lead_is_not_taken_over(candidate: Make, own_server: RedisServer) -> None:
    first, second = leader_and_follower(candidate, quarantine=2)
    first.freeze()
    own_server.client().flushall()
    eventually(lambda: state(own_server, "kind") == "quarantine", "the follower has found the loss")
    over = int(state(own_server, "until"))
    first.kill()
    second.hears("gain")
    assert history(own_server) == [("quarantined", "state lost"), ("elected", "")]
    entries: Any = own_server.client().xrevrange(f"{ROOT}:events", count=1)
    assert int(entries[0][0].split(b"-")[0]) >= over


def test_s25_who_dies_after_its_reclaim_counted_is_taken_over(candidate: Make, own_server: RedisServer) -> None:
    first, second = leader_and_follower(candidate, quarantine=2)
    own_server.client().flushall()
    eventually(lambda: "reclaimed" in dict(history(own_server)))
    eventually(lambda: state(own_server, "kind") == "lease", "a heartbeat has shown that it counted")
    follows(own_server, second)
    first.kill()
    takes_over(own_server, second)


def test_nothing_is_left_open_after_a_stop(pair: tuple[Candidate, Candidate]) -> None:
    first, second = pair
    assert (pidfds(first), pidfds(second)) == (0, 1)
    second.tell("stop")
    second.hears("stopped")
    assert pidfds(second) == 0
    second.tell("start")
    eventually(lambda: pidfds(second) == 1, "it watches again")


def test_changes_of_the_leader_open_no_more_and_more_descriptors(
    pair: tuple[Candidate, Candidate], own_server: RedisServer
) -> None:
    def at_rest() -> int:
        """A follower watches the leader. Each has one connection, and two ends of its waker and of ``wakeup``."""
        eventually(lambda: (sum(map(pidfds, pair)), *map(sockets, pair)) == (1, 5, 5))
        return sum(len(descriptors(one)) for one in pair)

    def change(times: int) -> None:
        for _ in range(times):
            token = state(own_server, "token")

            def changed(token: str = token) -> bool:
                for one in pair:
                    one.tell("resign")  # again, because the server knows of a new leader before that one does
                return state(own_server, "token") != token

            eventually(changed, every=0.02)

    change(3)
    before = at_rest()
    change(20)
    eventually(lambda: at_rest() == before)
