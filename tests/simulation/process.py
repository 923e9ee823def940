"""Processes on hosts: who learns of whose death, as ``django_leader.process`` proves it."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import World

LATEST = 0.02
"""Seconds after which a candidate that waits has heard of a death on its host."""


class Process:
    """A process as the kernel of its host knows it. It may have one candidacy after the other."""

    def __init__(self, host: str, pid: str, number: int) -> None:
        self.host, self.pid, self.number = host, pid, number
        self.frozen = self.dead = False


def identity(process: Process) -> str:
    """What a process publishes of itself. A pid is used again; the number is that of one process for ever."""
    return f"{process.host} {process.pid} {process.number}"


class Hosts:
    """All processes of an episode. Those of one name, one after the other, live on one host and have one pid."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._known: dict[str, list[Process]] = defaultdict(list)

    def spawn(self, name: str) -> Process:
        """A new process."""
        host = f"host{ord(name[0]) % self.world.setup.hosts}"
        process = Process(host, name, self.world.number())
        self._known[self.world.rules.identity(process)].append(process)
        return process

    def publishes(self, process: Process, rng: random.Random) -> str:
        """The identity, or nothing where the process, or its kernel, does not take part in this."""
        return "" if rng.random() < self.world.setup.silent else self.world.rules.identity(process)

    def dead(self, published: str) -> bool:
        """Whether the kernel says so."""
        return any(map(self.world.rules.dead, self._known[published]))

    def changed(self, process: Process) -> None:
        """Whoever waits on its host hears of it, if it is dead."""
        world = self.world
        if world.rules.dead(process):
            for candidate in world.candidates:
                if candidate.process.host == process.host:
                    world.after(candidate.rng.random() * LATEST, candidate.heard)

    def die(self, process: Process) -> None:
        """SIGKILL, or its end. What it has sent is still under way."""
        process.dead = True
        self.changed(process)


class HolderWatch:
    """What a candidate knows of the process of whoever leads."""

    def __init__(self, hosts: Hosts, host: str) -> None:
        self._hosts, self._host = hosts, host
        self._term: tuple[str, int] | None = None
        self._published = ""

    def follow(self, term: tuple[str, int], published: str) -> None:
        """Another process leads, by this term."""
        here = published.partition(" ")[0] == self._host
        self._term, self._published = (term, published) if here else (None, "")

    def forget(self) -> None:
        """Nobody else leads."""
        self._term = None

    def dead(self) -> tuple[str, int] | None:
        """The term whose process is dead."""
        return self._term if self._term and self._hosts.dead(self._published) else None
