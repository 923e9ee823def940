"""Real processes that die, and real processes that only look as if."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_leader.system import pidfd
from django_leader.system.clock import now
from django_leader.system.pidfd import HolderWatch, Identity, same_boot
from testproject.embedded import die_with_parent
from tests.conftest import need
from tests.support.holder_process import TERM, looks, watch
from tests.support.servers import eventually

ROOT = Path(__file__).resolve().parents[2]
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork", "--kill-child"]
HIDING = ["--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
NOTHING = {"fd": False, "dead": False}


class Holder:
    """A process that has published who it is; ``around`` is the command that starts it."""

    def __init__(self, *around: str) -> None:
        self.process = subprocess.Popen(
            [*around, sys.executable, "-m", "tests.support.holder_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        self.pid = self.process.pid
        self.text: str = self.hears()

    @property
    def identity(self) -> Identity:
        identity = Identity.from_text(self.text)
        assert identity
        return identity

    @property
    def state(self) -> str:
        """The letter in ``/proc``, which is no proof of anything."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def hears(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline() or '"nothing"')

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self.hears()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Holder]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts holders, and ends them."""
    need(not pidfd.unsupported(), "a kernel with pidfd_open")
    started: list[Holder] = []

    def make(*around: str) -> Holder:
        started.append(Holder(*around))
        return started[-1]

    yield make
    for holder in started:
        holder.close()


@pytest.fixture
def holder(start: Start) -> Holder:
    return start()


@pytest.fixture
def watching(holder: Holder) -> Iterator[HolderWatch]:
    watching = watch(holder.text)
    assert watching.fd is not None
    assert watching.dead() is None
    yield watching
    watching.forget()


def in_a_pid_namespace(start: Start, *more: str) -> Holder:
    trial = subprocess.run([*UNSHARE, *more, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"no pid namespace may be made here: {trial.stderr.strip()}")
    return start(*UNSHARE, *more)


def wakes(watching: HolderWatch, seconds: float = 20) -> bool:
    """Whether there is something to read within so many seconds; at once if it had died, for a watch of the living."""
    assert watching.fd is not None
    poll = select.poll()
    poll.register(watching.fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def test_s24_a_killed_process_is_dead_while_it_is_still_a_zombie(holder: Holder, watching: HolderWatch) -> None:
    holder.process.kill()
    assert wakes(watching)
    assert watching.dead() == TERM
    assert holder.state == "Z"
    assert watching.fd is None, "what stays readable must not be polled again"
    assert watching.dead() == TERM


def test_s24_a_process_that_exits_is_dead(holder: Holder, watching: HolderWatch) -> None:
    holder.tell("exit")
    assert wakes(watching)
    assert watching.dead() == TERM


def test_s24_a_newcomer_knows_a_zombie_by_its_inode(holder: Holder) -> None:
    holder.process.kill()
    eventually(lambda: holder.state == "Z", "it is a zombie")
    need(holder.identity.inode, "a kernel with pidfs")
    watching = watch(holder.text)
    assert watching.dead() == TERM
    assert watching.fd is None


def test_s24_to_a_newcomer_a_process_that_is_gone_proves_nothing(holder: Holder) -> None:
    holder.process.kill()
    holder.process.wait()
    assert looks(watch(holder.text)) == NOTHING


def test_s24_a_process_that_was_seen_alive_and_is_gone_is_dead(holder: Holder, watching: HolderWatch) -> None:
    watching.forget()
    holder.process.kill()
    holder.process.wait()
    watching.follow(("holder:1", 8), holder.text, now(), "9")
    assert watching.dead() == ("holder:1", 8)


@pytest.mark.parametrize("milliseconds", [-1001, 1001])
def test_s23_a_process_of_another_boot_is_not_watched(holder: Holder, milliseconds: int) -> None:
    me = pidfd.own()
    assert me
    assert same_boot(me, holder.identity), "what two processes of one boot read is equal"
    text = holder.identity._replace(booted=me.booted + milliseconds).to_text()
    assert looks(watch(text)) == NOTHING


def test_s23_a_process_that_starts_in_the_future_is_not_watched(holder: Holder) -> None:
    ticks = int((now() + 60) * os.sysconf("SC_CLK_TCK"))
    assert looks(watch(holder.identity._replace(started=ticks).to_text())) == NOTHING


def test_s24_a_stopped_process_is_not_dead(holder: Holder, watching: HolderWatch) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    eventually(lambda: holder.state == "T", "it is stopped")
    assert watching.dead() is None
    assert not wakes(watching, 0.1)
    assert watch(holder.text).dead() is None, "nor for a newcomer"


def test_s24_a_traced_process_is_not_dead(holder: Holder, watching: HolderWatch) -> None:
    seize, interrupt, detach = 0x4206, 0x4207, 17  # linux/ptrace.h
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if ptrace(seize, holder.pid, None, None):
        pytest.skip(f"ptrace is not permitted here: {os.strerror(ctypes.get_errno())}")
    assert ptrace(interrupt, holder.pid, None, None) == 0
    os.waitpid(holder.pid, 0)
    assert holder.state == "t"
    assert watching.dead() is None
    assert not wakes(watching, 0.1)
    assert ptrace(detach, holder.pid, None, None) == 0
    holder.process.kill()
    assert wakes(watching)
    assert watching.dead() == TERM


@pytest.mark.parametrize("command", ["exec", "exec in a thread"])
def test_s24_a_process_that_executes_another_program_is_not_dead(
    holder: Holder, watching: HolderWatch, command: str
) -> None:
    assert holder.ask(command) == "again"
    assert watching.dead() is None
    assert not wakes(watching, 0.1)
    assert watch(holder.text).fd is not None, "it is still the process that published its identity"
    holder.process.kill()
    assert wakes(watching)
    assert watching.dead() == TERM


def test_s24_a_process_whose_main_thread_has_ended_is_not_dead(holder: Holder, watching: HolderWatch) -> None:
    holder.tell("end the main thread")
    eventually(lambda: holder.state == "Z", "/proc calls it a zombie")
    assert watching.dead() is None
    assert not wakes(watching, 0.1)
    assert watch(holder.text).dead() is None, "nor for a newcomer"
    holder.process.kill()
    assert wakes(watching)
    assert watching.dead() == TERM


def test_s24_another_process_with_the_same_pid_proves_nothing(start: Start) -> None:
    said = in_a_pid_namespace(start, "--mount-proc").ask("reuse")
    assert said["pids"][0] == said["pids"][1]
    assert said["texts"][0] != said["texts"][1]
    assert said["late"] == NOTHING
    assert said["before"] is True, "whoever had opened a pidfd in time knows that the first one is dead"


def test_s23_a_process_of_another_pid_namespace_is_not_watched(start: Start) -> None:
    outside, inside = start(), in_a_pid_namespace(start, "--mount-proc")
    assert inside.identity.boot == outside.identity.boot
    assert inside.identity.namespace != outside.identity.namespace
    assert inside.ask("watch:" + outside.text) == NOTHING
    free = next(pid for pid in range(2**22 - 1, 0, -1) if not os.path.exists(f"/proc/{pid}"))
    for pid in (inside.identity.pid, outside.pid, os.getpid(), free):
        text = inside.identity._replace(pid=pid).to_text()
        assert looks(watch(text)) == NOTHING
    inside.close()
    assert watch(inside.text).dead() is None
    for pid in (inside.identity.pid, free):
        assert looks(watch(outside.identity._replace(pid=pid).to_text())) == NOTHING, "nor one that is not there"


@pytest.mark.parametrize("more", [["--mount-proc"], []], ids=["its own /proc", "its parent's /proc"])
def test_a_process_is_watched_inside_a_pid_namespace(start: Start, more: list[str]) -> None:
    said = in_a_pid_namespace(start, *more).ask("family:")
    assert said == {"lived": {"fd": True, "dead": False}, "in proc": bool(more), "unsupported": ""}


def test_a_process_of_another_user_that_proc_hides_is_watched(start: Start) -> None:
    if os.geteuid():
        pytest.skip("only root can change the user")
    inside = in_a_pid_namespace(start, *HIDING)
    need(inside.identity.inode, "a kernel with pidfs")
    assert inside.ask("family:65534") == {"lived": {"fd": True, "dead": False}, "in proc": False, "unsupported": ""}


def test_a_descriptor_that_somebody_else_has_closed_proves_nothing(holder: Holder, watching: HolderWatch) -> None:
    number = watching.fd
    assert number is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(ours.fileno(), number)
        theirs.send(b"!")
        assert wakes(watching)
        assert looks(watching) == NOTHING
        assert os.fstat(number).st_ino == os.fstat(ours.fileno()).st_ino, "and it is theirs to close"
        os.close(number)
    for version in ("4", "5", "6"):
        watching.follow(TERM, holder.text, now(), version)
    holder.process.kill()
    assert wakes(watching), "the next answer has opened another"


def test_a_descriptor_that_is_closed_is_polled_no_more(holder: Holder, watching: HolderWatch) -> None:
    assert watching.fd is not None
    os.close(watching.fd)
    assert wakes(watching), "the poll of a closed descriptor does not wait"
    assert looks(watching) == NOTHING
    holder.process.kill()
    holder.process.wait()
    watching.follow(TERM, holder.text, now(), "3")
    assert watching.dead() == TERM


def test_a_child_that_inherited_the_descriptor_closes_its_own(holder: Holder, watching: HolderWatch) -> None:
    number = watching.fd
    assert number is not None
    pid = os.fork()
    if pid == 0:
        watching.forget()
        try:
            os.fstat(number)
        except OSError as error:
            os._exit(42 if error.errno == errno.EBADF and watching.fd is None else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    holder.process.kill()
    assert wakes(watching)
    assert watching.dead() == TERM


def test_a_child_is_somebody_else_at_once(start: Start) -> None:
    pid = os.fork()
    if pid == 0:
        me = pidfd.own()
        os._exit(42 if me and me.pid == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_this_process_never_watches_itself() -> None:
    me = pidfd.own()
    need(me, "a kernel with pidfd_open")
    assert me
    for identity in (me, me._replace(started=me.started - 1), me._replace(inode=me.inode + 1)):
        assert looks(watch(identity.to_text())) == NOTHING
