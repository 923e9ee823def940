"""Processes on hosts: who learns of whose death, as ``django_leader.system.pidfd`` proves it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from django_leader.protocol.jobs import Going

from .witness import Witness

if TYPE_CHECKING:
    from .jobs import Run, Worker
    from .world import World

NOT_AFTER = 0.02
"""Seconds after which a candidate that waits has heard of a death on its host."""


class Process:
    """A process as the kernel of its machine knows it. It may have one candidacy after the other."""

    def __init__(self, host: str, machine: str, pid: str, number: int) -> None:
        self.host, self.machine, self.pid, self.number = host, machine, pid, number
        self.frozen = self.dead = False
        self.witness = Witness()
        self.worker: Worker | None = None
        """The thread of the jobs of its last term."""
        self.going: dict[str, Going] = {}
        """The last run of each job, if it goes on, by the name of the job."""
        self.runs: dict[str, Run] = {}
        """These runs."""
        self.all: dict[str, list[Run]] = defaultdict(list)
        """All runs that go on, those too that hang while another one was started."""
        self.asleep: list[Callable[[], None]] = []
        """What the threads of its jobs will do when it goes on."""

    def wake_up(self) -> None:
        """Have the threads of jobs go on."""
        waiting, self.asleep = self.asleep, []
        for action in waiting:
            action()


def identity(process: Process) -> str:
    """What a process publishes of itself. A pid is used again; the number is that of one process for ever."""
    return f"{process.host} {process.pid} {process.number}"


class Hosts:
    """All processes of an episode. Those of one name, one after the other, live on one machine and have one pid.

    Several machines may look like one host, as if they were resumed from one snapshot.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._known: dict[tuple[str, str], list[Process]] = defaultdict(list)

    def spawn(self, name: str) -> Process:
        """A new process."""
        setup = self.world.setup
        number, host = divmod(ord(name[0]), setup.hosts)
        process = Process(f"host{host}", f"machine{host}.{number % setup.clones}", name, self.world.number())
        self._known[process.machine, self.world.rules.identity(process)].append(process)
        return process

    def publishes(self, process: Process, rng: random.Random) -> str:
        """The identity, or nothing where the process, or its kernel, is left out of this."""
        return "" if rng.random() < self.world.setup.silent else self.world.rules.identity(process)

    def found(self, machine: str, published: str) -> bool:
        """Whether the kernel of this machine has such a process. Every second one that ended stays a zombie."""
        return any(not process.dead or process.number % 2 for process in self._known[machine, published])

    def dead(self, machine: str, published: str) -> bool:
        """Whether the kernel of this machine says so, or that there is no such process."""
        known = self._known[machine, published]
        return not known or any(map(self.world.rules.dead, known))

    def changed(self, process: Process) -> None:
        """Whoever waits on its machine hears of it, if it is dead."""
        world = self.world
        if world.rules.dead(process):
            for candidate in world.candidates:
                if candidate.process.machine == process.machine:
                    world.after(candidate.rng.random() * NOT_AFTER, candidate.heard)

    def die(self, process: Process) -> None:
        """SIGKILL, or its end. What it has sent is still under way."""
        process.dead = True
        self.changed(process)


class HolderWatch:
    """What a candidate knows of the process of whoever leads."""

    def __init__(self, hosts: Hosts, process: Process) -> None:
        self._hosts, self._host, self._machine = hosts, process.host, process.machine
        self._term: tuple[str, int] | None = None
        self._published = ""
        self._seen = set[str]()
        """Of a real candidate only the last one counts. Here more deaths are proved, and so more can go wrong."""

    def follow(self, term: tuple[str, int], published: str) -> None:
        """Another process leads, by this term."""
        here = published.partition(" ")[0] == self._host
        self._term, self._published = (term, published) if here else (None, "")
        if here and self._hosts.found(self._machine, published):
            self._seen.add(published)

    def forget(self) -> None:
        """Nobody else leads."""
        self._term = None

    def dead(self) -> tuple[str, int] | None:
        """The term whose process is dead, if that was seen on this machine."""
        known = self._published in self._seen or not self._hosts.world.rules.seen
        return self._term if self._term and known and self._hosts.dead(self._machine, self._published) else None
