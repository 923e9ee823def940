"""``candidate_process`` on greenlets, which go on in the child of a fork in C."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import ctypes  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from gevent.fileobject import FileObjectThread  # noqa: E402

from django_leader.runtime.election import LeaderElection  # noqa: E402
from django_leader.system.clock import now  # noqa: E402
from tests.support.candidate_process import COMMANDS, main, say  # noqa: E402

LIFETIME = 120.0
"""Seconds after which a child ends that nobody has ended."""


def fork_in_c(election: LeaderElection) -> None:
    """Make a child that does nothing, so that all that happens in it is done by greenlets of the parent."""
    if fork() == 0:
        say("child", leads=election.is_leader(), running=election.running, name=election.instance_id)
        live_on()


def fork_in_c_and_start(election: LeaderElection) -> None:
    """Make a child that is a candidate."""
    if fork() == 0:
        election.start()
        election.wait_for_leadership(0)
        say("child", leads=election.is_leader(), running=election.running, name=election.instance_id)
        live_on()


def fork_in_c_and_return(election: LeaderElection) -> None:
    """Make a child that goes on where its parent was, in a callback."""
    if fork() == 0:
        say("child", leads=election.is_leader(), running=election.running, name=election.instance_id)


def fork() -> int:
    # In the child no thread of gevent's pool is there to take the GIL: none may ask for it now.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    time.sleep(0.02)
    pid: int = ctypes.PyDLL(None).fork()
    sys.setswitchinterval(interval)
    return pid


def live_on() -> None:
    until = now() + LIFETIME
    while now() < until:
        time.sleep(0.02)
    os._exit(1)


COMMANDS.update(
    {
        "fork in C": fork_in_c,
        "fork in C and start": fork_in_c_and_start,
        "fork in C and return": fork_in_c_and_return,
    }
)

if __name__ == "__main__":
    sys.stdin = FileObjectThread(0, "r", close=False)  # whose reader lets the other greenlets run
    main()
