"""Processes that do what lines tell them and answer in lines of JSON, and fleets of them that elect a leader."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from benchmarks.peers import OURS, ROOT, SYSTEMS
from benchmarks.servers import KINDS, Trouble
from testproject.embedded import die_with_parent

PATIENCE = 120.0
"""Seconds after which what has not been said never will be."""
LONGEST_SETTLING = 30.0
PAUSE = 0.15
"""Seconds before each round, so that every follower waits again."""


class Usage(NamedTuple):
    """CPU seconds, and voluntary context switches."""

    cpu: float = 0.0
    switches: float = 0.0


class Process:
    """A child; its module reads lines."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self._child.stdin
        assert self._child.stdout
        self._in, self.stdout = self._child.stdin, self._child.stdout.fileno()
        self.pid = self._child.pid
        self.heard: deque[dict[str, Any]] = deque()
        self._rest = b""

    def tell(self, line: str) -> None:
        """Send a line. Raise ``Trouble`` when it has died."""
        try:
            self._in.write(line.encode() + b"\n")
            self._in.flush()
        except BrokenPipeError:
            raise Trouble("a process has died") from None

    def hear(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for an answer. Raise ``Trouble`` when none comes."""
        return hear([self], timeout)[1]

    def read(self) -> None:
        """Take in what it has said. Raise ``Trouble`` when it has died."""
        data = os.read(self.stdout, 65536)
        if not data:
            raise Trouble(f"a process has died (exit status {self._child.wait()})")
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.heard.extend(json.loads(line) for line in lines)

    def kill(self) -> float:
        """SIGKILL. Gives the instant before it."""
        at = time.monotonic()
        self._child.kill()
        return at

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._child.send_signal(number)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._in.close()
        self._child.kill()
        self._child.wait()
        assert self._child.stdout
        self._child.stdout.close()


def hear(processes: Iterable[Process], timeout: float = PATIENCE) -> tuple[Process, dict[str, Any]]:
    """Return what one of them says next. Raise ``Trouble``."""
    streams = {process.stdout: process for process in processes}
    until = time.monotonic() + timeout
    while True:
        for process in streams.values():
            if process.heard:
                return process, process.heard.popleft()
        ready, _, _ = select.select(list(streams), [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise Trouble(f"nothing was heard for {timeout:g} s")
        streams[ready[0]].read()


class Fleet:
    """The candidates of one system, on a server of their own: ``each`` of them in every one of the processes."""

    def __init__(self, name: str, processes: int = 3, each: int = 1, **options: Any) -> None:
        self.name, self.system, self.each, self.options = name, SYSTEMS[name], each, options
        self.server = KINDS[self.system.server]()
        self.processes: list[Process] = []
        self._settled_at = 0.0
        try:
            self.processes.extend(self._spawn() for _ in range(processes))
            for process in self.processes:
                process.hear()
            self._begin()
        except BaseException:
            self.close()
            raise

    def _spawn(self) -> Process:
        options = json.dumps(self.options)
        return Process("benchmarks.candidate", self.name, self.server.address, str(self.each), options)

    def _begin(self) -> None:
        first, *others = self.processes
        first.tell("start 0")
        self.leader, self.index = first, int(self._until("gained")[1]["gained"])
        for process in (first, *others):
            process.tell(f"rest {int(process is first)}")
        for _ in self.processes:
            self._until("started")
        self._settled_at = time.monotonic() + PAUSE

    @property
    def size(self) -> int:
        """How many candidates it has."""
        return len(self.processes) * self.each

    def _until(self, kind: str) -> tuple[Process, dict[str, Any]]:
        while True:
            process, message = hear(self.processes)
            if kind in message:
                return process, message

    def settle(self) -> None:
        """Wait until every follower waits again. Raise ``Trouble`` when they never do."""
        time.sleep(max(0.0, self._settled_at - time.monotonic()))
        if self.system.waits:
            until = time.monotonic() + LONGEST_SETTLING
            while (self.server.waiting() or 0) < 0.9 * (self.size - 1):  # some are always between two waits
                if time.monotonic() > until:
                    raise Trouble(f"{self.server.waiting()} of {self.size - 1} followers wait")
                time.sleep(0.02)
        for process in self.processes:  # who led for a moment while a lease ran out, say
            while select.select([process.stdout], [], [], 0)[0]:
                process.read()
            for message in process.heard:
                if "gained" in message:
                    self.leader, self.index = process, int(message["gained"])
            process.heard.clear()

    def handover(self) -> float:
        """Stop the leader. Return the milliseconds from the call of ``stop()`` to the next one's gain callback."""
        self.settle()
        before, index = self.leader, self.index
        before.tell(f"stop {index}")
        began = gained = 0.0
        while not began or not gained:
            process, message = hear(self.processes)
            if "stopped" in message:
                began = message["at"]
            elif "gained" in message:
                self.leader, self.index, gained = process, int(message["gained"]), message["at"]
        before.tell(f"start {index}")
        self._settled_at = time.monotonic() + PAUSE
        return (gained - began) * 1000

    def kill(self) -> float:
        """Kills the leader. Gives the instant before."""
        self.processes.remove(self.leader)
        at = self.leader.kill()
        self.leader.close()
        return at

    def succeed(self) -> float:
        """Wait for the next leader. Return the instant of its gain callback. A new process replaces the dead one."""
        winner, message = self._until("gained")
        self.leader, self.index = winner, int(message["gained"])
        new = self._spawn()
        self.processes.append(new)
        new.hear()
        new.tell("start 0")
        self._settled_at = time.monotonic() + PAUSE
        at: float = message["at"]
        return at

    def usage(self) -> Usage:
        """Return what the processes have used so far."""
        total = Usage()
        for process in self.processes:
            process.tell("usage 0")
            used = self._until("cpu")[1]
            total = Usage(total.cpu + used["cpu"], total.switches + used["switches"])
        return total

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let the followers of a restless system run. Outside they are frozen, because they would disturb others."""
        if not self.system.restless:
            yield
            return
        for process in self.processes:
            process.signal(signal.SIGCONT)
        try:
            time.sleep(0.3 + random.random() / 10)
            yield
        finally:
            self.freeze()

    def freeze(self) -> None:
        """Freezes the followers of a restless system."""
        for process in self.processes:
            if self.system.restless and process is not self.leader:
                process.signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the processes and the server."""
        for process in self.processes:
            process.close()
        self.server.close()


class LightFleet(Fleet):
    """Candidates of ours that are no threads: see ``light``."""

    def __init__(self, processes: int, each: int) -> None:
        super().__init__(OURS, processes, each)

    def _spawn(self) -> Process:
        return Process("benchmarks.light", self.server.address, str(self.each))
