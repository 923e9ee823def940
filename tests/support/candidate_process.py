"""A process that is a candidate and says what happens to it, one JSON object a line."""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from django_leader.protocol.config import Config
from django_leader.protocol.jobs import Job
from django_leader.protocol.schedule import Every
from django_leader.runtime.election import LeaderElection
from django_leader.runtime.runs import JobSpec, Run
from django_leader.system.clock import now
from testproject.embedded import die_with_parent

STALL = 2.0
"""Seconds that a command lasts which is in the way of the heartbeats."""


def say(event: str, **values: Any) -> None:
    # One write for each line, and no lock that a fork could copy while another thread holds it.
    os.write(1, json.dumps({"event": event, "at": now(), "pid": os.getpid(), **values}).encode() + b"\n")


class Say(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say("log", level=record.levelname, text=record.getMessage())


def told(run: Run) -> None:
    say("run", slot=run.scheduled_for.timestamp(), token=run.token)


def main() -> None:
    options = json.loads(sys.argv[1])
    port, block, fail = options.pop("port"), options.pop("block", ""), options.pop("fail", "")
    attempt, in_callback = options.pop("attempt", False), options.pop("in_callback", {})
    logging.getLogger("django_leader").addHandler(Say())
    logging.getLogger("django_leader").setLevel("INFO")
    jobs = [JobSpec(Job("job", Every(1), 60.0), told)] if options.pop("job", False) else []
    election = LeaderElection(redis.Redis(port=port), Config(**options), jobs=lambda: jobs)

    def gained(token: int) -> None:
        say("gain", token=token, leads=election.is_leader())
        if command := in_callback.get("gain"):
            COMMANDS[command](election)
        if fail == "gain":
            raise RuntimeError("this callback fails")

    def lost(token: int, reason: str) -> None:
        say("loss", token=token, reason=reason, leads=election.is_leader())
        if command := in_callback.get("loss"):
            COMMANDS[command](election)
        if block == "loss":
            time.sleep(3600)

    election.listen(gained, lost, lambda previous, current: say("change", previous=previous, current=current))
    if block == "gain":
        election.on_become_leader(lambda: time.sleep(3600))
    election.start()
    if attempt:
        say("attempted", leads=election.wait_for_leadership(0))
    say("ready", instance_id=election.instance_id)
    for line in sys.stdin:
        if line.strip() == "exit":
            return
        COMMANDS[line.strip()](election)


def fork(election: LeaderElection) -> None:
    """In a child, without exec: its verdict, then a candidacy of its own, then an exit that runs ``atexit``."""
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        first = election.is_leader()
        say("child", leads=first, running=election.running, instance_id=election.instance_id)
        election.start()
        election.wait_for_leadership(0)
        say("child-campaigned", leads=election.is_leader())
        sys.exit(0)
    os.waitpid(pid, 0)
    say("child-over", leads=election.is_leader())


def leave_a_child(election: LeaderElection) -> None:
    """A child, without exec, which obeys from then on; its parent goes on with the election, and does nothing else."""
    if os.fork():
        threading.Event().wait()
    say("child", pid=os.getpid())


def execute(_: LeaderElection) -> None:
    """Becomes another program, which is not participating."""
    again = 'import sys; print(\'{"event": "again"}\', flush=True); sys.stdin.read()'
    os.execv(sys.executable, [sys.executable, "-c", again])


def end_main_thread(_: LeaderElection) -> None:
    """Only the main thread; the others go on."""
    ctypes.CDLL(None).pthread_exit(None)


def compute(_: object = None) -> None:
    """In Python, which gives the GIL away when it is asked."""
    until = now() + STALL
    while now() < until:
        pass


def compute_in_threads(_: LeaderElection) -> None:
    """Many at a time, so that each turn of the GIL comes late."""
    threads = [threading.Thread(target=compute) for _ in range(128)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


lengths = itertools.count(20)
length = next(lengths)


def keep_the_gil(_: LeaderElection) -> None:
    """In a call of C code that computes, then in Python. The first time it finds out which call lasts that long."""
    global length
    while True:
        began = now()
        re.match("(a+)+$", "a" * length + "b")
        if now() > began + STALL / 2:
            break
        length = next(lengths)  # twice as long; a heartbeat that comes in between meets no leader at rest
    compute()


def keep_the_gil_asleep(_: LeaderElection) -> None:
    """In a call of C code that waits: ``PyDLL``, unlike ``CDLL``, does not give the GIL away."""
    ctypes.PyDLL(None).poll(None, 0, int(STALL * 1000))


def stop(election: LeaderElection) -> None:
    election.stop()
    say("stopped", leads=election.is_leader())


def verdict(election: LeaderElection) -> None:
    say("verdict", leads=election.is_leader(), token=election.fencing_token, left=election.lease_left)


COMMANDS: dict[str, Callable[[LeaderElection], object]] = {
    "stop": stop,
    "start": LeaderElection.start,
    "resign": LeaderElection.resign,
    "verdict": verdict,
    "fork": fork,
    "leave a child": leave_a_child,
    "exec": execute,
    "end the main thread": end_main_thread,
    "compute": compute,
    "compute in threads": compute_in_threads,
    "keep the GIL": keep_the_gil,
    "keep the GIL asleep": keep_the_gil_asleep,
}


if __name__ == "__main__":
    main()
