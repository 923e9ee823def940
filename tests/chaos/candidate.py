"""One candidate of the chaos test: it looks at ``is_leader()`` every millisecond, and writes down what it saw.

Options come as JSON in ``argv[1]``, commands as lines on stdin. The header of the samples counts the commands done.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.sentinel import Sentinel

from django_leader.protocol.config import Config
from django_leader.runtime.election import LeaderElection
from testproject.embedded import die_with_parent
from tests.support.c_forks import fork_in_c

from .journal import COMMANDS, DEADLINE, LEADS, PID, SAMPLED_AT, SAMPLES, Events, Samples, now
from .plants import PLANTS

LOOK = 0.001
"""Seconds between two looks."""
STEP = 5_000_000
"""Nanoseconds by which a deadline must have moved to be a new one."""


class Observer:
    """Writes down what one process can see of itself."""

    def __init__(self, folder: Path, process: str) -> None:
        self.folder, self.process = folder, process
        self.samples = Samples(folder / f"{process}.samples")
        self.events = Events(folder / f"{process}.events")
        self.samples.words[PID] = os.getpid()
        self._lease = (0, 0)

    def look(self, election: LeaderElection) -> None:
        """Asks once. It counts only if the token was the same before and after, so that it is clear whose it is."""
        words = self.samples.words
        token = election.fencing_token
        before = now()
        leads = election.is_leader()
        after = now()
        if not leads:
            self.samples.close()
            words[LEADS] = 0
        elif token is not None and token == election.fencing_token:
            self.samples.add(token, before, after)
            deadline = after + int(election.lease_left * 1e9)
            words[DEADLINE], words[LEADS] = deadline, token
            if self._lease[0] != token or deadline > self._lease[1] + STEP:
                self._lease = (token, deadline)
                self.events.add("lease", token=token, deadline=deadline)
        words[SAMPLED_AT] = after
        words[SAMPLES] += 1

    def watch(self, election: LeaderElection) -> None:
        """Looks for ever."""
        while True:
            self.look(election)
            time.sleep(LOOK)


class Diary(logging.Handler):
    """Writes down what the package logs. What it did not expect comes with a traceback, and is a fault."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        self._process.observer.events.add("log", level=record.levelname, text=record.getMessage())
        if record.exc_info:
            self._process.observer.events.add("raised", text="".join(traceback.format_exception(*record.exc_info)))


class Process:
    """What the commands act on. A child of a fork puts its own observer in the place of its parent's."""

    def __init__(self, options: dict[str, Any]) -> None:
        known = {field.name for field in dataclasses.fields(Config)}
        config = Config(**{name: value for name, value in options["config"].items() if name in known})
        make, patch = PLANTS[options.get("plant", "")]
        patch()
        self.election = make(_client(options), config)
        self.observer = Observer(Path(options["folder"]), options["process"])
        self.forks = 0
        logging.getLogger("django_leader").addHandler(Diary(self))
        logging.getLogger("django_leader").setLevel("INFO")
        self.election.listen(
            lambda token: self.observer.events.add("gain", token=token),
            lambda token, reason: self.observer.events.add("loss", token=token, reason=reason),
            lambda previous, current: self.observer.events.add("change", previous=previous, current=current),
        )

    def start(self) -> None:
        self.election.start()

    def stop(self) -> None:
        self.election.stop()

    def resign(self) -> None:
        self.election.resign()

    def stall(self, seconds: str) -> None:
        """Holds the interpreter's lock as C code may: ``PyDLL``, unlike ``CDLL``, does not give it away."""
        libc = ctypes.PyDLL(None)
        end = now() + int(float(seconds) * 1e9)
        while (left := end - now()) > 0:
            libc.usleep(min(left // 1000 + 1, 900_000))

    def fork(self, quiet: str, campaigning: str) -> None:
        """A child that never led: looks at once and for a while, then is a candidate for a while, too."""
        self.forks += 1
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        die_with_parent()
        election = self.election
        self.observer = self._child()
        for seconds in (quiet, campaigning):
            end = now() + int(float(seconds) * 1e9)
            while now() < end:
                self.observer.look(election)
                time.sleep(LOOK)
            election.start()
        sys.exit(0)

    def fork_in_c(self) -> None:
        """A fork of which the interpreter hears nothing, as uWSGI makes them. Only the kernel can tell the child."""
        self.forks += 1
        pid = fork_in_c()
        if pid == 0:
            die_with_parent()
            observer = self._child()
            for _ in range(1000):
                observer.look(self.election)
            os._exit(0)
        os.waitpid(pid, 0)

    def _child(self) -> Observer:
        return Observer(self.observer.folder, f"{self.observer.process}-fork{self.forks}")


def _client(options: dict[str, Any]) -> redis.Redis:
    if "sentinels" in options:
        sentinels = [("127.0.0.1", port) for port in options["sentinels"]]
        sentinel: Any = Sentinel(sentinels, socket_timeout=0.5)  # type: ignore[no-untyped-call]
        client: redis.Redis = sentinel.master_for("chaos", username="candidate", password="-")
        return client
    return redis.Redis(port=options["port"])


def main() -> None:
    process = Process(json.loads(sys.argv[1]))
    commands: dict[str, Callable[..., None]] = {
        command.__name__: command
        for command in (
            process.start,
            process.stop,
            process.resign,
            process.stall,
            process.fork,
            process.fork_in_c,
        )
    }
    process.start()
    threading.Thread(target=process.observer.watch, args=(process.election,), daemon=True).start()
    for line in sys.stdin:
        name, *args = line.split()
        if name == "exit":
            return
        commands[name](*args)
        process.observer.samples.words[COMMANDS] += 1


if __name__ == "__main__":
    main()
