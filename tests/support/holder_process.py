"""A process that publishes who it is, and then does what it is told: a command a line, an answer in JSON a line."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django_leader.system import pidfd
from django_leader.system.clock import now
from testproject.embedded import die_with_parent
from tests.support.servers import eventually

TERM = ("holder:1", 7)


def say(value: Any) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def watch(text: str) -> pidfd.HolderWatch:
    """After as many answers as it takes without pidfs."""
    watching = pidfd.HolderWatch()
    for version in ("1", "2", "3"):
        watching.follow(TERM, text, now(), version)
    return watching


def looks(watching: pidfd.HolderWatch) -> dict[str, bool]:
    dead = watching.dead() is not None
    return {"fd": watching.fd is not None, "dead": dead}


def look(text: str) -> None:
    say(looks(watch(text)))


def execute(_: str) -> None:
    again = "import sys; print('\"again\"', flush=True); sys.stdin.read()"
    os.execv(sys.executable, [sys.executable, "-c", again])


def execute_in_thread(_: str) -> None:
    threading.Thread(target=execute, args=[""]).start()


def end_main_thread(_: str) -> None:
    threading.Thread(target=threading.Event().wait).start()
    ctypes.CDLL(None).pthread_exit(None)


class Child:
    """A fork that ends when it is told."""

    def __init__(self) -> None:
        stop, self._stop = os.pipe()
        hear, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._stop)
            die_with_parent()
            me = pidfd.own()
            os.write(tell, (me.to_text() if me else "nobody").encode())
            os.read(stop, 1)
            os._exit(0)
        self.text = os.read(hear, 200).decode()
        for end in (stop, hear, tell):
            os.close(end)

    def end(self, *, reap: bool = True) -> None:
        os.close(self._stop)
        if reap:
            os.waitpid(self.pid, 0)


def family(user: str) -> None:
    """A child and its death, as seen by ``user``; and whether ``/proc`` shows it under its pid."""
    child = Child()
    if user:
        os.setgroups([])
        os.setgid(int(user))  # group 0 sees what hidepid hides
        os.setuid(int(user))
    watching = watch(child.text)
    lived = looks(watching)
    fields = {field for stat in Path("/proc").glob(f"{child.pid}/stat") for field in stat.read_text().split()}
    in_proc = child.text.split()[3] in fields
    child.end(reap=False)
    eventually(watching.dead, "the death of a child is seen")
    say({"lived": lived, "in proc": in_proc, "unsupported": pidfd.unsupported()})


def reuse(_: str) -> None:
    """A child, another one with its pid, and the first one's text. In a pid namespace of its own."""
    first = Child()
    before = watch(first.text)
    first.end()
    with open("/proc/sys/kernel/ns_last_pid", "w") as last_pid:
        last_pid.write(str(first.pid - 1))
    second = Child()
    late = watch(first.text)
    found = looks(late)
    dead = before.dead() is not None
    second.end()
    say({"pids": [first.pid, second.pid], "late": found, "before": dead, "texts": [first.text, second.text]})


COMMANDS: dict[str, Callable[[str], None]] = {
    "watch": look,
    "exec": execute,
    "exec in a thread": execute_in_thread,
    "end the main thread": end_main_thread,
    "family": family,
    "reuse": reuse,
}


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    me = pidfd.own()
    say(me.to_text() if me else "")
    for line in sys.stdin:
        command, _, argument = line.rstrip("\n").partition(":")
        if command == "exit":
            return
        COMMANDS[command](argument)


if __name__ == "__main__":
    main()
