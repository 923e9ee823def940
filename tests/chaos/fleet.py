"""The candidates, the server and what lies between them: everything that the nemesis can lay its hands on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from django_leader.protocol.config import margin_of
from django_leader.system.pidfd import own
from tests.support.servers import GENEROUS, eventually

from .journal import DEADLINE, SAMPLES, Events, now
from .proxy import Network, Proxy
from .servers import ChaosServer, Clock
from .slot import Slot

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
    alone: float = 0.125
    """The chance that a process neither publishes itself nor claims the lease of a dead one."""

    @property
    def data_loss(self) -> float:
        """For how long nobody is elected when data were lost."""
        return self.ttl if self.quarantine is None else self.quarantine

    @property
    def bound(self) -> float:
        """In which one must lead again, on a machine that never stalls for more than a second."""
        return self.ttl + self.data_loss + self.retry + 1.0

    @property
    def claim(self) -> float:
        """The same where the leader is dead, and another one on its host can tell."""
        return self.retry + 0.3 * self.ttl

    @property
    def margin(self) -> float:
        """What the deadline comes early."""
        return margin_of(self.ttl)


class Death(NamedTuple):
    """The end of a leader by SIGKILL, from which the recovery counts."""

    at: int
    claimable: bool
    """Whether another one must claim the lease."""
    nobody_until: int = 0
    """The instant before which nobody may be elected; 0 if anybody may."""


class Fleet:
    """Candidates in front of one server, each behind a proxy."""

    def __init__(self, options: Options, folder: Path, path: str, seed: int) -> None:
        self.options, self.folder, self.seed = options, folder, seed
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
            self._add(number, {"port": proxy.port}, proxy)

    def _add(self, number: int, address: dict[str, Any], proxy: Proxy | None) -> None:
        rng, options = random.Random(f"{self.seed} {number}"), self._candidate(number) | address
        self.slots.append(Slot(f"c{number}", options, self.folder, rng, proxy))
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
        return {"folder": str(self.folder), "plant": options.plant, "config": config, "alone": options.alone}

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
        """Waits until all are candidates, and one leads."""
        self.wait(lambda: all(self._alive(slot) and slot.word(SAMPLES) > 20 for slot in self.slots), "all look")
        start = now()
        self.wait(lambda: self.confirmed(start), "one leads")

    def _alive(self, slot: Slot) -> bool:
        if slot.process and slot.process.poll() is not None:
            self.events.add("crashed", process=slot.id, status=slot.process.returncode)
            slot.start()
        return True

    def kill(self, slot: Slot) -> Death:
        """SIGKILL. When this returns, it has ended."""
        self.events.add("killed", process=slot.id)
        if not slot.takes_over:
            self.note(f"{slot.id} had not published itself")
        claimable = self.claimable(slot)
        at = now()
        slot.signal(signal.SIGKILL)
        slot.end()
        return Death(at, claimable)

    def claimable(self, leader: Slot) -> bool:
        """Whether one is there that claims the lease of ``leader`` when that dies and its data are still there.

        Ask before the death: only a candidate that has seen the leader alive may claim its lease.
        """
        return any(slot.watches(leader) for slot in self._others(leader) if not slot.stopped)

    def _others(self, leader: Slot) -> list[Slot]:
        return [slot for slot in self.slots if slot is not leader and slot.process and slot.process.poll() is None]

    def unite(self) -> Slot:
        """Let all take over. Return the leader, once all others watch it, where that is possible."""
        for slot in self.slots:
            if not slot.takes_over:
                self.exit(slot)
                slot.start(takes_over=True)
        self.settle()

        def watched() -> Slot | None:
            leader = self.leader()
            watchers = self._others(leader)
            return leader if all(slot.watches(leader) for slot in watchers) or own() is None else None

        found: Slot = self.wait(watched, "the leader is watched")
        return found

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
