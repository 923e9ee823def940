"""A process of a Django project that leads, and has work done by children of every kind. A command a line on stdin.

Options come as JSON in ``argv[1]``, which children that are spawned inherit, too. It says what it sees in JSON, an
object a line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from stat import S_ISSOCK
from typing import Any

import django
from django.conf import settings

from testproject.embedded import die_with_parent
from tests.support import c_forks
from tests.support.candidate_process import say
from tests.support.servers import GENEROUS, eventually

FINE = 42
OPTIONS = json.loads(sys.argv[1])
os.environ.pop("PYTEST_VERSION", None)  # this is no test run, but a process as in production
urlpatterns: list[Any] = []
settings.configure(
    SECRET_KEY="tests",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django_leader"],
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{OPTIONS['port']}/0",
        }
    },
    LEADER_ELECTIONS={"default": {name.upper(): value for name, value in OPTIONS.get("election", {}).items()}},
)
django.setup()

from django.test import Client  # noqa: E402

from django_leader import elections, is_leader  # noqa: E402
from django_leader.signals import became_leader, lost_leadership  # noqa: E402
from django_leader.system.clock import now  # noqa: E402

election = elections["default"]


def look(_: Any = None) -> dict[str, Any]:
    """What a process sees of itself."""
    return {
        "pid": os.getpid(),
        "leads": is_leader() or election.is_leader() or election.lease_left > 0,
        "token": election.fencing_token,
        "running": election.running,
        "name": election.instance_id,
    }


def campaign(_: Any = None) -> dict[str, Any]:
    """Be a candidate for as long as one attempt takes."""
    election.start()
    election.wait_for_leadership(0)
    seen = look()
    election.stop()
    return seen


def use(_: Any = None) -> dict[str, Any]:
    """What an application may call without being a candidate."""
    election.stop()
    election.resign()
    return {**look(), "leader": election.get_leader_id(), "waited": election.wait_for_leadership(1.0)}


def processes(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        in_pool = [*pool.map(look, range(4)), *pool.map(use, range(2)), *pool.map(campaign, range(2))]
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        in_executor = [*executor.map(look, range(4)), *executor.map(use, range(2)), *executor.map(campaign, range(2))]
    process = context.Process(target=sys.exit, args=(FINE,))
    process.start()
    process.join(GENEROUS)
    say("processes", seen=in_pool + in_executor, exit=process.exitcode)


def browse(_: Any = None) -> dict[str, Any]:
    """As code under test does, but outside of a test run."""
    status = Client().get("/nowhere/").status_code
    return {**look(), "status": status}


def browse_in_child(_: str) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        [seen] = pool.map(browse, [0])
    say("browsed", **seen)


def sockets() -> int:
    descriptors = Path("/proc/self/fd").iterdir()
    return sum(S_ISSOCK(descriptor.stat().st_mode) for descriptor in descriptors if descriptor.exists())


def fork_in_callback(ends: str) -> None:
    """In whichever callback. The child's only thread is the callback's, which may be all that it ever has."""
    pid = os.fork()
    if pid:
        say("child", ends=ends, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), **look())
        return
    die_with_parent()
    say("inherited", sockets=sockets(), **look())
    if ends == "campaign":
        say("campaigned", **campaign())
        os._exit(FINE)
    if ends == "process":
        process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(FINE))
        process.start()
        process.join(GENEROUS)
        os._exit(process.exitcode or 1)
    if ends == "raise":
        raise RuntimeError("in the child alone")
    if ends == "exit":
        sys.exit(FINE)


def quiet_fork_in_c() -> int:
    """A fork of which the interpreter hears nothing, while no other thread has anything to do.

    One that waits for the interpreter's lock would be waited for in the child, where it is not.
    """
    candidacy = election._candidacy
    if candidacy and (delivery := candidacy.shared.announcer.current):
        worker = candidacy._worker
        eventually(lambda: 0.01 < now() - delivery.checked_at < 0.3 and 0.01 < now() - worker.turned_at < 0.2)
    return c_forks.fork_in_c(quiet=True)


def fork_in_c(does: str) -> None:
    pid = quiet_fork_in_c()
    if pid == 0:
        die_with_parent()
        say("inherited", **look())
        if does == "exec":
            os.execv("/bin/sh", ["sh", "-c", f"exit {FINE}"])
        if does != "exit":
            say("did", **{"use": use, "campaign": campaign}[does]())
        sys.exit(FINE)
    say("child", code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), **look())


def wait_for_signal(kind: str) -> None:
    die_with_parent()
    with suppress(KeyboardInterrupt):
        say("child", kind=kind, pid=os.getpid())
        while True:
            time.sleep(0.01)
    sys.exit(FINE)


def leave_children(_: str) -> None:
    """One of each kind, each of which waits for a signal; and their ends, in the order in which they come."""
    process = multiprocessing.get_context("fork").Process(target=wait_for_signal, args=("multiprocessing",))
    process.start()
    assert process.pid
    children = {process.pid: "multiprocessing"}
    for kind, fork in (("os.fork", os.fork), ("C", quiet_fork_in_c)):
        if (pid := fork()) == 0:
            wait_for_signal(kind)
        children[pid] = kind
    while children:
        pid, status = os.wait()
        say("ended", kind=children.pop(pid), code=os.waitstatus_to_exitcode(status), **look())


def verdict(_: str) -> None:
    say("verdict", **look())


COMMANDS: dict[str, Callable[[str], object]] = {
    "start": lambda _: election.start(),
    "stop": lambda _: election.stop(),
    "verdict": verdict,
    "processes": processes,
    "browse": browse_in_child,
    "fork in C": fork_in_c,
    "leave children": leave_children,
}
CALLBACKS: dict[str, Callable[[Callable[..., None]], object]] = {
    "on_become_leader": election.on_become_leader,
    "on_lose_leadership": election.on_lose_leadership,
    "became_leader": lambda receiver: became_leader.connect(receiver, weak=False),
    "lost_leadership": lambda receiver: lost_leadership.connect(receiver, weak=False),
}


def commands() -> Iterator[str]:
    """Lines of stdin, but not of ``sys.stdin``, whose lock a child would inherit while this thread waits with it."""
    unread = b""
    while read := os.read(0, 4096):
        *lines, unread = (unread + read).split(b"\n")
        yield from (line.decode() for line in lines)


def main() -> None:
    if callback := OPTIONS.get("callback"):
        CALLBACKS[callback](lambda *args, **kwargs: fork_in_callback(OPTIONS["ends"]))
    became_leader.connect(lambda fencing_token, **kwargs: say("gain", token=fencing_token), weak=False)
    lost_leadership.connect(lambda fencing_token, reason, **kwargs: say("loss", reason=reason), weak=False)
    if OPTIONS.get("starts", True):
        election.start()
    for line in commands():
        command, _, argument = line.partition(":")
        if command == "exit":
            return
        COMMANDS[command](argument)


if __name__ == "__main__":
    main()
