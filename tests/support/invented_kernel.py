"""As much of a kernel as ``pidfd`` asks: processes, clocks, descriptors and errors as the test says."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from django_leader.system import clock, pidfd

BOOT = "37206924-49b4-42d0-a925-88f5ef7b5d09"
NAMESPACE = "4:4026531836"
ANONYMOUS, PIDFS, SOCKETS = (16, 1038), 5, 8
BOOTED = 1_700_000_000_000
TICKS = 100


@dataclass
class Process:
    """One process; it is ``ended`` before it is ``reaped``."""

    pid: int
    started: int = 5000
    inode: int = 70001
    ended: bool = False
    reaped: bool = False
    hidden: bool = False

    @property
    def identity(self) -> pidfd.Identity:
        return pidfd.Identity(BOOT, NAMESPACE, self.pid, self.started, self.inode, BOOTED)

    @property
    def text(self) -> str:
        return self.identity.to_text()


class Kernel:
    """Stands in for ``os``, ``select`` and clocks. Without ``pidfs`` a pidfd has the inode of everything anonymous."""

    O_RDONLY, O_CLOEXEC, POLLIN, POLLNVAL = 0, 0, 1, 32

    def __init__(self, *, pidfs: bool) -> None:
        self.pidfs = pidfs
        self.processes: dict[int, Process] = {}
        self.descriptors: dict[int, object] = {}
        self.refused: dict[int, int] = {}
        """The errno of ``pidfd_open`` for a pid."""
        self.missing = ""
        """The beginning of the paths that are not there."""
        self.limit = 1000
        self.uptime = 3600.0
        self.booted = BOOTED / 1000
        """The wall time of boot. A step of the wall clock changes it."""
        self.me = self.runs(Process(100))

    def runs(self, process: Process) -> Process:
        if not self.pidfs:
            process.inode = 0
        self.processes[process.pid] = process
        return process

    def ends(self, process: Process, *, reaped: bool = True) -> None:
        process.ended, process.reaped = True, reaped
        if reaped:
            del self.processes[process.pid]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pidfd, "os", self)
        monkeypatch.setattr(pidfd, "time", SimpleNamespace(time=lambda: self.booted + self.uptime))
        monkeypatch.setattr(clock, "now", self.now)
        names = ("POLLIN", "POLLNVAL", "poll")
        monkeypatch.setattr(pidfd, "select", SimpleNamespace(**{name: getattr(self, name) for name in names}))

    def now(self) -> float:
        """The boot clock. It goes on with each look at it."""
        self.uptime += 0.001
        return self.uptime - 0.001

    def sysconf(self, name: str) -> int:
        assert name == "SC_CLK_TCK"
        return TICKS

    def _new(self, thing: object) -> int:
        if len(self.descriptors) >= self.limit:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        number = next(number for number in range(3, 10000) if number not in self.descriptors)
        self.descriptors[number] = thing
        return number

    def _of(self, number: int) -> object:
        if number not in self.descriptors:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.descriptors[number]

    def getpid(self) -> int:
        return self.me.pid

    def pidfd_open(self, pid: int) -> int:
        if pid in self.refused:
            raise OSError(self.refused[pid], os.strerror(self.refused[pid]))
        if pid not in self.processes:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return self._new(self.processes[pid])

    def eventfd(self, _: int) -> int:
        return self._new("eventfd")

    def close(self, number: int) -> None:
        self._of(number)
        del self.descriptors[number]

    def fstat(self, number: int) -> SimpleNamespace:
        thing = self._of(number)
        device, inode = ANONYMOUS
        if thing == "socket":
            device, inode = SOCKETS, 1
        elif isinstance(thing, Process) and self.pidfs:
            device, inode = PIDFS, thing.inode
        return SimpleNamespace(st_dev=device, st_ino=inode)

    def stat(self, path: str) -> SimpleNamespace:
        assert path == "/proc/thread-self/ns/pid"
        self._look(path)
        device, _, inode = NAMESPACE.partition(":")
        return SimpleNamespace(st_dev=int(device), st_ino=int(inode))

    def _look(self, path: str) -> None:
        if self.missing and path.startswith(self.missing):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def open(self, path: str, _: int) -> int:
        self._look(path)
        return self._new(self._content(path))

    def _content(self, path: str) -> bytes:
        if path == "/proc/sys/kernel/random/boot_id":
            return f"{BOOT}\n".encode()
        folder, _, name = path.rpartition("/")
        if folder == "/proc/thread-self/fdinfo":
            thing = self._of(int(name))
            pid = f"Pid:\t{-1 if thing.reaped else thing.pid}\n" if isinstance(thing, Process) else ""
            return f"pos:\t0\nflags:\t02000002\n{pid}NSpid:\t1\n".encode()
        number = folder.removeprefix("/proc/")
        process = self.me if number == "self" else self.processes.get(int(number))
        if name != "stat" or not process or process.hidden:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        fields = " ".join(str(field) for field in range(4, 22))
        return f"{process.pid} (a) R (caf\xe9 \n) S {fields} {process.started} 23\n".encode()

    def read(self, number: int, _: int) -> bytes:
        content = self._of(number)
        assert isinstance(content, bytes)
        return content

    def events(self, number: int) -> int:
        thing = self.descriptors.get(number)
        if isinstance(thing, Process):
            return self.POLLIN if thing.ended else 0
        return self.POLLIN if thing else self.POLLNVAL

    def poll(self) -> Poll:
        return Poll(self)


class Poll:
    """A ``select.poll`` of one descriptor."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._number = kernel, 0

    def register(self, number: int, events: int) -> None:
        assert events == Kernel.POLLIN
        self._number = number

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        assert timeout == 0
        events = self._kernel.events(self._number)
        return [(self._number, events)] if events else []
