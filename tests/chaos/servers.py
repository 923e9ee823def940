"""Servers for the chaos test: on a port that stays theirs, with a door for the nemesis and a clock that it can set."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
from mmap import mmap
from pathlib import Path
from typing import Any

import redis

from testproject.embedded import die_with_parent
from tests.support.servers import RedisServer, eventually

from .proxy import quiet_port

SHIM = Path(__file__).with_name("clockshim.c")
BUSY = 30
"""Milliseconds after which a script that still runs makes the server answer BUSY."""


class Clock:
    """The wall clock of the servers that are started with ``environment``: a file that the preloaded shim maps."""

    def __init__(self, folder: Path) -> None:
        self.environment: dict[str, str] = {}
        self.missing = ""
        self.offset = 0.0
        path, library = folder / "clock", folder / "clockshim.so"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._words = mmap(file.fileno(), 8)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            self.missing = "there is no C compiler"
            return
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            self.missing = f"the shim does not compile: {done.stderr}"
            return
        self.environment = {"LD_PRELOAD": str(library), "CLOCKSHIM": str(path)}

    def set(self, offset: float) -> None:
        """The servers' clocks are so many seconds ahead from now on."""
        self.offset = offset
        self._words[:] = struct.pack("q", int(offset * 1e9))

    def try_on(self, server: ChaosServer) -> None:
        """Finds out whether it moves the clock of ``server``; a static program does not heed a preloaded library."""
        if not self.missing:
            client = server.admin()
            before = client.time()[0]
            self.set(100)
            try:
                eventually(lambda: client.time()[0] > before + 90, timeout=2)
            except AssertionError:
                self.missing = f"{server.path} does not heed it"
            self.set(0)


class ChaosServer(RedisServer):
    """One server. The nemesis is a user of its own, so that what is denied to the candidates is not denied to it."""

    def __init__(
        self, path: str, logs: Path, environment: dict[str, str] | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        super().__init__(path)
        self.port = quiet_port()
        self.log = logs / f"server-{self.port}.log"
        self.environment = environment or {}
        self.arguments = arguments

    def start(self) -> ChaosServer:
        command = [self.path, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        command += ["--save", "", "--busy-reply-threshold", str(BUSY), "--hz", "50", "--enable-debug-command", "yes"]
        command += ["--user", "nemesis", "on", "nopass", "allkeys", "allchannels", "allcommands", *self.arguments]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | self.environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        eventually(self._answers, f"{self.path} answers on port {self.port}")
        return self

    def admin(self, timeout: float = 30) -> Any:
        """A client of the nemesis. (Half of redis-py's methods have no types.)"""
        return redis.Redis(port=self.port, username="nemesis", password="-", socket_timeout=timeout, protocol=2)

    def kill(self) -> None:
        """SIGKILL, and the end of it is waited for."""
        self.stop()

    def resume(self) -> None:
        """Lets it go on, if it was frozen."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
