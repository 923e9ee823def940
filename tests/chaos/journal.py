"""What a run leaves on disk, and how it is read again.

Each process writes two files that outlive its SIGKILL: ``<process>.samples``, a mapped file in which every stretch of
``is_leader()`` being true is one record, and ``<process>.events``, a JSON object a line. The nemesis writes
``nemesis.events``. Instants are nanoseconds on the boot clock, which all processes of one machine share.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from django_leader.system.clock import BOOT_CLOCK

RECORD = 8
"""Numbers of eight bytes in a record, and in the header before the first."""
RECORDS = 4096
SIZE = 8 * RECORD * (RECORDS + 1)
PID, SAMPLES, SAMPLED_AT, LEADS, DEADLINE, COMMANDS = range(6)
"""The header: whose it is, how often and when it last looked, the token it saw, up to when, and commands done."""
TOKEN, FIRST_BEFORE, FIRST_AFTER, LAST_BEFORE, LAST_AFTER, COUNT = range(6)


def now() -> int:
    """Nanoseconds on the boot clock."""
    return time.clock_gettime_ns(BOOT_CLOCK)


class Samples:
    """The mapped file of one process: it writes, the nemesis looks on. Every store is one aligned machine word."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, SIZE)
        self.words = memoryview(mmap.mmap(descriptor, SIZE)).cast("q")
        os.close(descriptor)
        self._at = 0
        self._open = 0

    def add(self, token: int, before: int, after: int) -> None:
        """Between ``before`` and ``after`` the process led, with ``token``."""
        words = self.words
        if token == self._open:
            words[self._at + LAST_BEFORE] = before
            words[self._at + LAST_AFTER] = after
            words[self._at + COUNT] += 1
            return
        self._at += RECORD
        self._open = token
        words[self._at + FIRST_BEFORE] = words[self._at + LAST_BEFORE] = before
        words[self._at + FIRST_AFTER] = words[self._at + LAST_AFTER] = after
        words[self._at + COUNT] = 1
        words[self._at + TOKEN] = token

    def close(self) -> None:
        """The process did not lead: if it does again, that is another stretch."""
        self._open = 0

    def stretches(self, process: str) -> list[Stretch]:
        """Every stretch so far."""
        found = []
        for at in range(RECORD, len(self.words), RECORD):
            token, *instants = self.words[at : at + COUNT]
            if not token:
                break
            found.append(Stretch(process, token, *instants))
        return found


class Events:
    """The lines of one process. Each is one write, so that no kill leaves a half of it in the middle."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, event: str, **values: Any) -> None:
        """Appends a line."""
        os.write(self._descriptor, json.dumps({"event": event, "at": now(), **values}).encode() + b"\n")


class Stretch(NamedTuple):
    """``is_leader()`` was true at every look from the first to the last; each look lasted from before to after it."""

    process: str
    token: int
    first_before: int
    first_after: int
    last_before: int
    last_after: int


class Callback(NamedTuple):
    """A callback began: ``gain``, or ``loss`` with the reason."""

    process: str
    kind: str
    token: int
    at: int
    reason: str = ""


class Lease(NamedTuple):
    """At ``at`` the leader saw that its lease was certain up to ``deadline``."""

    process: str
    token: int
    at: int
    deadline: int


class Fault(NamedTuple):
    """One thing that the nemesis did. ``since`` is the instant from which the recovery counts."""

    number: int
    kind: str
    began: int
    since: int
    detail: str = ""
    bound: int = 0
    """Nanoseconds in which one must lead again; 0 for the bound of the run."""
    nobody_until: int = 0
    """The instant before which nobody may be elected; 0 if anybody may."""


@dataclass
class History:
    """All that is known of a run. Nothing else is: the checker trusts no process, and not the nemesis either."""

    stretches: list[Stretch] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    stalls: list[tuple[int, int]] = field(default_factory=list)
    """When the machine stood still, as the nemesis noticed."""
    killed: set[str] = field(default_factory=set)
    """Processes that had no chance to say their last words."""
    crashed: dict[str, int] = field(default_factory=dict)
    """Processes that ended by themselves, and the status."""
    raised: list[tuple[str, int, str]] = field(default_factory=list)
    """Exceptions that the package did not expect: process, instant, traceback."""
    stuck: list[tuple[int, str]] = field(default_factory=list)
    """What the nemesis waited for in vain."""
    bound: int = 0
    """Nanoseconds in which one must lead again."""
    lease: int = 0
    """Nanoseconds from the request of a grant to its deadline."""


def read(folder: Path) -> History:
    """The history that the files in ``folder`` tell."""
    history = History()
    for path in sorted(folder.glob("*.samples")):
        history.stretches += Samples(path).stretches(path.stem)
    for path in sorted(folder.glob("*.events")):
        for line in path.read_text().splitlines():
            _take(history, path.stem, json.loads(line))
    history.leases.sort(key=lambda lease: lease.at)
    # A child dies with its parent, so it has no more chance than that.
    killed = tuple(f"{process}-fork" for process in history.killed)
    children = {stretch.process for stretch in history.stretches} | {call.process for call in history.callbacks}
    history.killed |= {child for child in children if child.startswith(killed)} if killed else set()
    return history


def _take(history: History, process: str, line: dict[str, Any]) -> None:
    match line["event"]:
        case "gain" | "loss" as kind:
            history.callbacks.append(Callback(process, kind, line["token"], line["at"], line.get("reason", "")))
        case "lease":
            history.leases.append(Lease(process, line["token"], line["at"], line["deadline"]))
        case "fault":
            history.faults.append(Fault(**{name: line[name] for name in Fault._fields}))
        case "stall":
            history.stalls.append((line["began"], line["at"]))
        case "raised":
            history.raised.append((process, line["at"], line["text"]))
        case "stuck":
            history.stuck.append((line["at"], line["text"]))
        case "killed":
            history.killed.add(line["process"])
        case "crashed":
            history.crashed[line["process"]] = line["status"]
        case "run":
            history.bound, history.lease = line["bound"], line["lease"]
