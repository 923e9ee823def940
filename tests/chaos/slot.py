"""A place in the fleet."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testproject.embedded import die_with_parent
from tests.support.servers import GENEROUS

from .journal import COMMANDS, LEADS, SAMPLED_AT, Samples, now
from .proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
FRESH = 200_000_000
"""Nanoseconds for which what a process saw of itself is news."""


@dataclass
class Slot:
    """A place in the fleet. One process after the other has it, and all go to Redis by the same proxy."""

    name: str
    options: dict[str, Any]
    folder: Path
    rng: random.Random
    proxy: Proxy | None = None
    incarnation: int = 0
    told: int = 0
    takes_over: bool = False
    stopped: bool = False
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    samples: Samples = field(init=False, repr=False)

    @property
    def id(self) -> str:
        """The process that has it now."""
        return f"{self.name}.{self.incarnation}"

    def start(self, *, takes_over: bool = False) -> None:
        """Starts the next process, which is a candidate at once. By chance it takes over, unless it must."""
        self.incarnation += 1
        self.told, self.stopped = 0, False
        self.takes_over = self.rng.random() >= self.options["alone"] or takes_over
        config = self.options["config"] | {"same_host_takeover": self.takes_over}
        options = self.options | {"process": self.id, "config": config}
        self.samples = Samples(self.folder / f"{self.id}.samples")
        with (self.folder / f"{self.id}.stderr").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.candidate", json.dumps(options)],
                cwd=ROOT, stdin=subprocess.PIPE, stderr=errors, text=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    def word(self, index: int) -> int:
        """A number of the header of its samples."""
        return self.samples.words[index]

    @property
    def leads(self) -> int:
        """The token with which it has just seen itself lead; 0 for none."""
        alive = self.process and self.process.returncode is None
        return self.word(LEADS) if alive and now() - self.word(SAMPLED_AT) < FRESH else 0

    def watches(self, other: Slot) -> bool:
        """Whether it has a pidfd of the process of ``other``, which it has then seen alive."""
        assert self.process
        assert other.process
        line = f"Pid:\t{other.process.pid}\n"
        for entry in Path(f"/proc/{self.process.pid}/fdinfo").glob("*"):
            with contextlib.suppress(OSError):
                if line in entry.read_text():
                    return True
        return False

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
        self.stopped = number == signal.SIGSTOP
        self.process.send_signal(number)

    def end(self) -> int:
        """Waits until it has ended, and gives the status."""
        assert self.process
        status = self.process.wait(4 * GENEROUS)
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        return status
