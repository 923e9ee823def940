"""Who this process is, and whether another process of this host is dead.

NOT guaranteed here, so a take-over must not rely on it:

- That nothing of a dead process goes on. Its children continue, and data that it had handed to the kernel, such as
  bytes in a socket's buffer, may still be delivered.
- Anything about clones that were running when the snapshot of their machine was taken. They are one process in
  everything that can be asked: boot id, namespace, pid, start time, inode. A process that is restored from a checkpoint
  (CRIU) continues after its own death.
- Anything about processes that were started after the snapshot, on machines that were resumed within a second of each
  other or whose clocks are not set yet, if they also have the same pid and inode and were started in the same clock
  tick. The tick is not compared where ``/proc`` hides the holder.
- That the end of a program is seen if its process continues with another program (execve), because the process is
  alive. Its new program could tell, by what differs between two programs of one process. But machines that were resumed
  from one snapshot may have processes that are alike in all else, and two of these would differ in the same way without
  a death. So the lease expires.
- That a death is seen. Where the kernel or a sandbox does not tell, there is no proof, and the lease expires. The same
  holds for a candidate that has not seen the holder alive, and for a candidate that first meets the holder after the
  wall clock was stepped by more than a second and before the holder has published itself anew.

Why the rest holds:

- A pid identifies a process only within one pid namespace of one boot. The inode of a namespace is used again only when
  that namespace no longer exists, and none of its processes does. The boot id is random, but machines that were resumed
  from one snapshot share it. So the wall time of boot is compared, too (``same_boot``), and a holder that started in
  the future of our boot clock is refused.
- All of these may still be equal on two machines. So when ``pidfd_open`` finds no such process (ESRCH), that proves a
  death only if the holder was seen alive here: a pidfd was opened, and the process behind it was the holder by all that
  its identity says. Without pidfs, that is the pid and the start time. There the pidfd must also not have polled
  readable after the start time was read, so that the pidfd and the start time were those of one process. The holder is
  then a process of this kernel, and no process has its pid any more. Another error than ESRCH proves nothing.
- A pidfd refers to one process for ever. It polls readable when the last thread has ended (pidfd_open(2)), and after
  that no instruction of the program runs. It does not poll readable while the process is stopped, traced, in D state or
  in execve, nor when only the main thread has ended, which ``/proc`` calls a zombie.
- The pidfd refers to the process that published its identity. Since Linux 6.9 a pidfd has an inode (of pidfs) that no
  other process of this boot ever has. On earlier kernels start times are compared. They count clock ticks of 10 ms
  (proc(5), by ``sysconf(_SC_CLK_TCK)``), and a pid can be used again within one tick. So the holder must also be seen
  renewing after the pidfd was opened: it lived then, and no other process had its pid. ESRCH needs no renewal, because
  the holder has ended also if the pidfd was that of a later process with its pid.
- The descriptor that polls readable is the pidfd. An application may close a descriptor that is not its own, and the
  number may then be that of a socket. So the descriptor is checked again.

Nothing is cached about this process, because a fork in C is not reported to Python, and a child may have the pid of its
dead grandparent.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from typing import NamedTuple

from django_leader.protocol.hold import SAME_BOOT, Clocks

from . import clock

_TEXT = re.compile(
    r"([0-9a-f-]{36}) ([0-9]{1,20}:[0-9]{1,20}) ([1-9][0-9]{0,6}) ([0-9]{1,20}) ([0-9]{1,20}) (-?[0-9]{1,15})"
)
"""A UUID, and numbers of 64 bits. A pid is at most 2**22 (proc(5), pid_max). A machine without a battery boots in 1970,
so the wall time of its boot may be a little less than 0."""
REFUSALS = (OSError, ValueError, LookupError, AttributeError)
"""The errors of a kernel, a sandbox or another Python that does not know what it is asked for."""
_START_TIME = 22 - 3
"""Field 22 of ``/proc/PID/stat`` (proc(5)); the first one after the name is field 3."""


class Identity(NamedTuple):
    """What distinguishes a process from every other process of its boot and pid namespace."""

    boot: str
    namespace: str
    """Device and inode of the pid namespace."""
    pid: int
    started: int
    """Clock ticks from the boot to the start of the process."""
    inode: int
    """The inode of its pidfds; 0 where the kernel has no pidfs."""
    booted: int
    """Milliseconds on the wall clock at boot, as that clock showed when this was read."""

    def to_text(self) -> str:
        """Return one line of ASCII, of about 90 characters."""
        return " ".join(map(str, self))

    @classmethod
    def from_text(cls, text: str) -> Identity | None:
        """Return the reverse; None if ``text`` is not such a line. Never raises."""
        match = _TEXT.fullmatch(text)
        return cls(match[1], match[2], *map(int, match.groups()[2:])) if match else None


def boot_time() -> int:
    """Return the milliseconds that the wall clock, as it is set now, showed at boot. Local, 1 µs."""
    return round((time.time() - clock.now()) * 1000)


def same_boot(mine: Identity, other: Identity) -> bool:
    """Return whether both are of one boot of one machine: one boot id, ``booted`` within ``SAME_BOOT``. Pure.

    It is also False if the wall clock was stepped by more than a second between the two readings. The lease then
    expires as usual.
    """
    return mine.boot == other.boot and abs(mine.booted - other.booted) <= SAME_BOOT * 1000


def own() -> Identity | None:
    """Return the identity of this process; None where deaths cannot be proved.

    Local, some 70 µs, in any thread. Never raises.
    """
    try:
        return _own()
    except REFUSALS:
        return None


def unsupported() -> str:
    """Return why ``own()`` is None; empty if it is not. Never raises."""
    try:
        _own()
    except REFUSALS as error:
        return str(error)
    return ""


class HolderWatch:
    """A watch on the process of the leader, if that process runs on this host. For one thread.

    Poll ``fd`` for reading, if there is one, and call ``dead()``, which never leaves an ``fd`` that stays readable.
    """

    def __init__(self) -> None:
        self.fd: int | None = None
        """The descriptor to poll. Each method may replace it."""
        self._node, self._inode, self._pid_in_proc = (0, 0), 0, 0
        self._followed: tuple[tuple[str, int], str] | None = None
        # Of the last holder only: each holder is examined when its term begins, and no other proof is asked for.
        self._seen_alive: Identity | None = None
        self._known = self._dead = False
        self._opened_at, self._version = 0.0, ""

    def follow(self, term: tuple[str, int], published: str, asked_at: float, version: str) -> None:
        """Watch the holder, at each answer by which another process leads. Local, 0.2 ms for a new term. Never raises.

        ``term``: holder and token. ``published``: the holder's ``Identity`` as text. ``asked_at``: an instant of
        ``clock.now()`` before the request left. ``version``: not empty, and another one after each renewal. If the
        process cannot be watched for now (for example, too many files are open), the next call tries again.
        """
        if self._followed != (term, published):
            self.forget()
            self._followed = term, published
            try:
                self._begin(Identity.from_text(published))
            except REFUSALS:
                self.forget()
        elif self.fd is not None and asked_at >= self._opened_at:
            self._version = self._version or version
            self._known = self._known or version != self._version

    def dead(self) -> tuple[str, int] | None:
        """Return the term whose holder's process is proved dead, until another term is followed. None without proof.

        Local, some microseconds. Never raises.
        """
        if self.fd is not None:
            try:
                events = _poll(self.fd)
                proved = self._known and bool(events & select.POLLIN) and self._is_ours(self.fd)
            except REFUSALS:
                events, proved = select.POLLNVAL, False
            if proved:
                self._dead = True
                self._close()
            elif events:
                self.forget()  # if it is dead, ``follow`` finds no such process at the next answer
        return self._followed[0] if self._dead and self._followed else None

    def forget(self) -> None:
        """End the watch, and close the descriptor. Local; also for the end, and for a child that inherited it.

        The identity of the process that was last seen alive is kept, because it may lead again, and may end before it
        is examined again.
        """
        self._close()
        self._followed, self._known, self._dead, self._version = None, False, False, ""

    def _begin(self, holder: Identity | None) -> None:
        if not holder:
            return
        me = _own()  # it opens a pidfd, so the next refusal is not that of a sandbox
        if not _may_be_here(me, holder):
            return
        # ``booted``, which was compared already, may differ at each reading. The rest is the kernel's, and stays.
        same = holder._replace(booted=0)
        try:
            self.fd = _pidfd_open(holder.pid)
        except ProcessLookupError:
            self._dead = self._seen_alive == same
            return
        self._node = _node(self.fd)  # needed to close it, whatever follows
        self._inode = _pidfs_inode(self.fd)
        try:
            self._pid_in_proc = _pid_in_proc(self.fd)
            started = _start_time(str(self._pid_in_proc))
            if not self._inode and _poll(self.fd):
                raise ProcessLookupError("the start time may be that of another process")
        except REFUSALS:  # /proc hides it from us (hidepid), or it has just ended
            if not self._inode:
                raise
            started = holder.started
        if (self._inode, started) == (holder.inode, holder.started):
            self._seen_alive = same
        else:
            self._close()
        self._known, self._opened_at = self._inode != 0, clock.now()

    def _is_ours(self, fd: int) -> bool:
        # Before pidfs all pidfds, and much else, had one inode. The pid of a process that was reaped is -1.
        return _node(fd) == self._node and (self._inode != 0 or _pid_in_proc(fd) in (self._pid_in_proc, -1))

    def _close(self) -> None:
        fd, self.fd = self.fd, None
        with contextlib.suppress(OSError):
            if fd is not None and _node(fd) == self._node:  # otherwise it was closed elsewhere, and another opened
                os.close(fd)


def _may_be_here(me: Identity, holder: Identity) -> bool:
    """Return whether the kernel can be asked about ``holder``, which is not this process itself."""
    ticks = clock.now() * os.sysconf("SC_CLK_TCK")
    here = same_boot(me, holder) and me.namespace == holder.namespace and holder.started <= ticks
    return here and me.pid != holder.pid


def _own() -> Identity:
    fd = _pidfd_open(os.getpid())
    try:
        inode = _pidfs_inode(fd)
    finally:
        os.close(fd)
    space = os.stat("/proc/thread-self/ns/pid")
    namespace = f"{space.st_dev}:{space.st_ino}"
    return Identity(_boot_id(), namespace, os.getpid(), _start_time("self"), inode, boot_time())


def clocks() -> Clocks:
    """Return what the clocks of this host show now. Local, some 20 µs. Never raises."""
    try:
        boot = _boot_id()
    except REFUSALS:  # no Linux, or no /proc
        boot = ""
    return Clocks(boot, clock.now(), time.time())


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _pidfd_open(pid: int) -> int:
    if not hasattr(os, "pidfd_open") or not hasattr(select, "poll"):
        raise OSError("this Python lacks os.pidfd_open (it is on Linux only) or select.poll (eventlet removes it)")
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        error.filename = "pidfd_open"
        raise


def _node(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _pidfs_inode(pidfd: int) -> int:
    device, inode = _node(pidfd)
    anonymous = os.eventfd(0)  # on the device on which pidfds were before pidfs
    try:
        return inode if device != _node(anonymous)[0] else 0
    finally:
        os.close(anonymous)


def _pid_in_proc(pidfd: int) -> int:
    """Return its pid as ``/proc`` counts, which may be that of another pid namespace. Raise if it is no pidfd."""
    found = re.search(r"^Pid:\s*(-?\d+)", _read(f"/proc/thread-self/fdinfo/{pidfd}"), re.MULTILINE)
    if not found:
        raise ValueError("not a pidfd")
    return int(found[1])


def _start_time(process: str) -> int:
    stat = _read(f"/proc/{process}/stat")
    return int(stat[stat.rindex(")") + 1 :].split()[_START_TIME])


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("ascii", "replace")  # far more than any of these files has
    finally:
        os.close(fd)


def _poll(fd: int) -> int:
    """Return the events of ``fd`` now. If gevent has replaced ``poll``, other greenlets run meanwhile."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return sum(events for _, events in poll.poll(0))
