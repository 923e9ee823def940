"""The candidates, the server and what lies between them: everything that the nemesis can lay its hands on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_leader.config import Config
from testproject.embedded import die_with_parent
from tests.support.servers import GENEROUS, eventually

from .journal import COMMANDS, DEADLINE, LEADS, SAMPLED_AT, SAMPLES, Events, Samples, now
from .proxy import Network, Proxy
from .servers import ChaosServer, Clock

ROOT = Path(__file__).resolve().parents[2]
FRESH = 200_000_000
"""Nanoseconds for which what a process saw of itself is news."""
STALLED = 50_000_000
"""Nanoseconds by which our own sleep may be too long before it is called a stall."""


@dataclass(frozen=True)
class Options:
    """What a run is like. Durations in seconds."""

    ttl: float = 1.0
    heartbeat: float = 0.25
    retry: float = 0.2
    quarantine: float | None = None
    min_replicas: int = 0
    candidates: int = 4
    same_id: bool = False
    plant: str = ""
    server: str = ""

    @property
    def bound(self) -> float:
        """In which one must lead again, on a machine that never stalls for more than a second."""
        quarantine = self.ttl if self.quarantine is None else self.quarantine
        return self.ttl + quarantine + self.retry + 1.0

    @property
    def margin(self) -> float:
        """What the deadline comes early."""
        return Config(lock_ttl=self.ttl).timing.margin


@dataclass
class Slot:
    """A place in the fleet. One process after the other has it, and all go to Redis by the same proxy."""

    name: str
    options: dict[str, Any]
    folder: Path
    proxy: Proxy | None = None
    incarnation: int = 0
    told: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    samples: Samples = field(init=False, repr=False)

    @property
    def id(self) -> str:
        """The process that has it now."""
        return f"{self.name}.{self.incarnation}"

    def start(self) -> None:
        """Starts the next process, which takes part at once."""
        self.incarnation += 1
        self.told = 0
        self.samples = Samples(self.folder / f"{self.id}.samples")
        with (self.folder / f"{self.id}.stderr").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.candidate", json.dumps({**self.options, "process": self.id})],
                cwd=ROOT, stdin=subprocess.PIPE, stderr=errors, text=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    def word(self, index: int) -> int:
        """A number of the header of its samples."""
        return self.samples.words[index]

    @property
    def leads(self) -> int:
        """The token with which it has just seen itself lead; 0 for none."""
        return self.word(LEADS) if now() - self.word(SAMPLED_AT) < FRESH else 0

    def tell(self, command: str) -> None:
        """Sends a command."""
        assert self.process
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        self.told += 1

    def done(self) -> bool:
        """Whether it has carried out all it was told."""
        return self.word(COMMANDS) >= self.told

    def signal(self, number: int) -> None:
        """Sends a signal."""
        assert self.process
        self.process.send_signal(number)

    def end(self) -> int:
        """Waits until it has ended, and gives the status."""
        assert self.process
        status = self.process.wait(4 * GENEROUS)
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        return status


class Fleet:
    """Candidates in front of one server, each behind a proxy."""

    def __init__(self, options: Options, folder: Path, path: str) -> None:
        self.options, self.folder = options, folder
        self.events = Events(folder / "nemesis.events")
        nanoseconds = {"bound": int(options.bound * 1e9), "lease": int((options.ttl - options.margin) * 1e9)}
        self.events.add("run", options=vars(options), **nanoseconds)
        self.notes: list[str] = []
        self._ended = threading.Event()
        self._stalls = threading.Thread(target=self._watch_machine, daemon=True)
        self._stalls.start()
        self.clock = Clock(folder)
        self.network = Network()
        self.slots: list[Slot] = []
        self.servers: list[ChaosServer] = []
        try:
            self.server = self._serve(path)
            self._populate()
        except BaseException:
            self.close()
            raise

    def _serve(self, path: str) -> ChaosServer:
        server = ChaosServer(path, self.folder, self.clock.environment)
        self.servers.append(server)
        server.start()
        self.clock.try_on(server)
        return server

    def _populate(self) -> None:
        for number in range(self.options.candidates):
            proxy = Proxy(self.network, lambda: self.server.port)
            self.slots.append(Slot(f"c{number}", self._candidate(number) | {"port": proxy.port}, self.folder, proxy))
            self.slots[-1].start()

    def _candidate(self, number: int) -> dict[str, Any]:
        options = self.options
        config = {
            "lock_ttl": options.ttl,
            "heartbeat_interval": options.heartbeat,
            "retry_interval": options.retry,
            "instance_id": "same" if options.same_id else f"c{number}",
            "quarantine": options.quarantine,
            "min_replicas": options.min_replicas,
        }
        return {"folder": str(self.folder), "plant": options.plant, "config": config}

    def note(self, text: str) -> None:
        """Something about the present fault, for the logs."""
        self.notes.append(text)

    def _watch_machine(self) -> None:
        while not self._ended.is_set():
            before = now()
            time.sleep(0.005)
            if now() - before > STALLED:
                self.events.add("stall", began=before)

    @property
    def primary(self) -> ChaosServer:
        """The server that has the election."""
        return self.server

    def leader(self) -> Slot:
        """The one that leads, for which it waits."""
        found: Slot = self.wait(lambda: next((slot for slot in self.slots if slot.leads), None), "one leads")
        return found

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 4 * GENEROUS) -> Any:
        """Waits for ``condition()`` to be true, and gives its value."""
        return eventually(condition, what, timeout)

    def confirmed(self, since: int) -> bool:
        """Whether one leads whose lease was asked for after ``since``."""
        certain = since + int((self.options.ttl - self.options.margin) * 1e9)
        return any(slot.leads and slot.word(DEADLINE) >= certain for slot in self.slots)

    def fit(self) -> bool:
        """Whether the servers are such that one can be elected."""
        return True

    def repaired(self) -> None:
        """Waits until they are."""

    def settle(self) -> None:
        """Waits until all take part, and one leads."""
        self.wait(lambda: all(self._alive(slot) and slot.word(SAMPLES) > 20 for slot in self.slots), "all look")
        start = now()
        self.wait(lambda: self.confirmed(start), "one leads")

    def _alive(self, slot: Slot) -> bool:
        if slot.process and slot.process.poll() is not None:
            self.events.add("crashed", process=slot.id, status=slot.process.returncode)
            slot.start()
        return True

    def kill(self, slot: Slot) -> None:
        """SIGKILL. When this returns, it has ended."""
        self.events.add("killed", process=slot.id)
        slot.signal(signal.SIGKILL)
        slot.end()

    def do(self, slot: Slot, command: str) -> None:
        """Has ``slot`` carry out a command, and waits for that."""
        slot.tell(command)
        self.wait(slot.done, f"{slot.id} does {command}")

    def exit(self, slot: Slot) -> None:
        """The end of the interpreter, in which it hands over."""
        slot.tell("exit")
        try:
            status = slot.end()
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{slot.id} does not end") from error
        if status:
            self.events.add("crashed", process=slot.id, status=status)

    def finish(self) -> None:
        """The good end: everybody hands over, so that each gain has its loss."""
        for slot in self.slots:
            self.exit(slot)

    def close(self) -> None:
        """Ends everything, however it is."""
        self._ended.set()
        for slot in self.slots:
            if slot.process and slot.process.poll() is None:
                os.kill(slot.process.pid, signal.SIGKILL)
                slot.end()
            if slot.proxy:
                slot.proxy.close()
        self._close_servers()
        self.network.close()
        self._stalls.join()

    def _close_servers(self) -> None:
        for server in self.servers:
            server.close()
