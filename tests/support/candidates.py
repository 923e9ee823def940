"""Candidates as real processes: what they say is read in the test, what they are told is a line on their stdin."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.servers import GENEROUS

ROOT = Path(__file__).resolve().parents[2]


class Candidate:
    """One process that is a candidate, running ``program``; ``around`` is what starts it."""

    def __init__(
        self,
        port: int,
        *,
        program: str = "tests.support.candidate_process",
        around: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.process = subprocess.Popen(
            [*around, sys.executable, "-m", program, json.dumps({"port": port, **options})],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.unheard: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.put(json.loads(line))

    def hears(self, event: str, timeout: float = GENEROUS, **values: Any) -> dict[str, Any]:
        """Waits until the process says ``event`` with ``values``, in whatever order, and takes it."""
        until = time.monotonic() + timeout
        while True:
            for said in self.pending():
                if said["event"] == event and all(said.get(k) == v for k, v in values.items()):
                    self.unheard.remove(said)
                    return said
            try:
                self.unheard.append(self.said.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"{self.pid} did not say {event} {values}, but {self.unheard}") from None

    def pending(self) -> list[dict[str, Any]]:
        """What it has said and nobody has taken."""
        while not self.said.empty():
            self.unheard.append(self.said.get())
        return list(self.unheard)

    def tell(self, command: str) -> None:
        """Sends one command."""
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def verdict(self) -> dict[str, Any]:
        """What the process says of itself now."""
        self.tell("verdict")
        return self.hears("verdict")

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends the process, however it is."""
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
        self.process.kill()
        self.process.wait(GENEROUS)
        self._reader.join(GENEROUS)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            with contextlib.suppress(BrokenPipeError):
                stream.close()
