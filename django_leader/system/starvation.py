"""Why the election thread is late: what it counts from one request to the next, and what follows from that.

NOT guaranteed here: that the cause is the true one. It is the one on which at least half of the delay falls, by counts
over the whole time. Where the counts are missing (not Linux, some sandboxes), the advice is general.

What tells the causes apart, as seen on Linux with CPython 3.10 to 3.13:

- A thread that waits for the GIL asks for it once per switch interval (5 ms), and each time makes a voluntary context
  switch. A thread that is stopped makes none. The kernel counts the time for which a thread could run and got no CPU.
- Pure Python releases the GIL when another thread asks for it: 4 busy threads make another one late by 0.02 s at most,
  16 by 0.7 s, 64 by half a second as a rule and by 2 s at worst. One call of C code that keeps the GIL, such as a
  regular expression, makes the other thread late by the whole length of the call, and nearly all of the CPU is one
  thread's.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import re
import sys
import threading
import time
import traceback
from typing import NamedTuple

with contextlib.suppress(ImportError):  # on Windows
    import resource

CPU_STAT = ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat")  # cgroup 2 and 1, as a container sees its own
RAISE = ", or raise LOCK_TTL"
ADVICE = {
    "suspended": "The machine or the VM was suspended meanwhile: run the election where that does not happen",
    "queued": f"The process got no CPU time{{throttled}}: raise its CPU limit, run less on its host{RAISE}",
    "greenlet": "A greenlet computed and did not yield: call gevent.sleep(0) in long computations, or give them to "
    f"gevent's threadpool (eventlet: sleep, tpool){RAISE}. With GEVENT_MONITOR_THREAD_ENABLE=1 gevent logs where",
    "blocked": "A greenlet waited in a call that does not yield, as of a database driver in C, or the process was "
    f"stopped (a signal, a debugger, a paused container or VM): use a driver that yields{RAISE}",
    "call": "One call kept the GIL{where}, as a large regular expression, sort or JSON can, or a C extension: move "
    f"such work to another process{RAISE}",
    "threads": f"Many threads computed at a time, and competed for the GIL: use fewer threads, more processes{RAISE}",
    "asleep": f"A call of C code waited and kept the GIL, as an extension can: move it to another process{RAISE}",
    "stopped": "The process was stopped (a signal, a debugger, a paused container or VM), or it was swapped out",
    "slow": f"Redis was slow to answer, or the process was stopped: check Redis and the network to it{RAISE}",
    "unknown": "The process got no CPU in time: look for calls that hold the GIL, for requests that do not yield "
    f"(gevent), for too few CPUs{RAISE}",
}


class Counts(NamedTuple):
    """Counts that only ever grow, in seconds except ``switches``; and where the threads are."""

    suspended: float
    queued: float  # for which this thread could run and got no CPU
    cpu: float  # of the process; with greenlets of the thread that they share
    switches: int  # how often this thread has waited for something
    threads: dict[int, float]  # CPU of each thread, by its native id
    places: dict[int, str]  # where each is, if that was asked


class Seen(NamedTuple):
    """What was measured before a turn that began ``late`` seconds late."""

    late: float
    rested: bool = True  # the thread had nothing to do
    green: bool = False  # greenlets are in the place of threads
    suspended: float = 0.0
    queued: float = 0.0
    cpu: float = 0.0
    asked: float = 0.0  # for which this thread asked for the GIL, at the most
    busiest: float = 0.0  # the most CPU of one thread


def read_counts(*, late: bool) -> Counts | None:
    """Return the counts; None where the kernel does not count. Never raises.

    Local: 20 microseconds, and one or two for each thread.
    """
    try:
        places = _places() if late else {}  # first of all, while the thread that had to release the GIL has not gone on
        ran, queued, _ = _read("/proc/thread-self/schedstat").split()
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        cpu = time.thread_time() if green() else time.process_time()
        return Counts(suspended, int(queued) / 1e9, cpu, switches, _threads(), places) if int(ran) else None
    except Exception:  # whatever a platform lacks, the election goes on
        return None


def explain(before: Counts | None, after: Counts | None, late: float, *, rested: bool) -> tuple[str, str]:
    """Return the cause of a delay, a key of ``ADVICE``, and the advice. Local.

    If not ``rested``, Redis may have been slow.
    """
    if not before or not after:
        return (found := "unknown" if rested else "slow"), ADVICE[found]
    suspended, queued, cpu, switches = (now - then for then, now in zip(before[:4], after[:4], strict=True))
    spent = {thread: used - before.threads.get(thread, 0.0) for thread, used in after.threads.items()}
    spent[0] = cpu - sum(spent.values())  # by threads that have ended
    busiest = max(spent, key=spent.__getitem__)
    asked = switches * sys.getswitchinterval()
    seen = Seen(late, rested, green(), suspended, queued, cpu, asked, spent[busiest])
    found = cause(seen)
    return found, ADVICE[found].format(where=after.places.get(busiest, ""), throttled=_throttled())


def cause(seen: Seen) -> str:
    """Return the cause of the delay, a key of ``ADVICE``. Pure."""
    half = seen.late / 2
    if seen.suspended >= half:
        return "suspended"
    # On a busy host, code that computes gets less CPU. With greenlets it waits for CPU in this very thread.
    if seen.green and seen.cpu >= max(half - seen.queued, seen.queued / 4):
        return "greenlet"
    if seen.queued >= half:
        return "queued"
    if seen.asked >= half and not seen.green:  # greenlets wait for many other things
        if seen.cpu < seen.late / 8:
            return "asleep"
        return "call" if seen.busiest >= min(seen.late, seen.cpu) / 2 else "threads"
    if not seen.rested:
        return "slow"
    if seen.green:
        return "blocked"
    return "stopped" if seen.asked + seen.queued < half else "unknown"


def green() -> bool:
    """Return whether gevent or eventlet has put greenlets in the place of threads. Local."""
    return _thread.start_new_thread.__module__.startswith(("gevent.", "eventlet."))


def _threads() -> dict[int, float]:
    found = dict[int, float]()
    for thread in [] if green() else threading.enumerate():
        with contextlib.suppress(OSError):  # it has just ended
            if native_id := thread.native_id:
                found[native_id] = time.clock_gettime(~native_id << 3 | 6)  # as pthread_getcpuclockid(3) has it
    return found


def _places() -> dict[int, str]:
    found, frames = dict[int, str](), sys._current_frames()
    for thread in threading.enumerate():
        if thread.native_id and (top := frames.get(thread.ident or 0)):
            calls = itertools.islice(traceback.walk_stack(top), 3)
            places = (f"{frame.f_code.co_name} in {frame.f_code.co_filename}:{line}" for frame, line in calls)
            found[thread.native_id] = f" (thread {thread.name!r}, {', called by '.join(places)})"
    return found


def _throttled() -> str:
    for path in CPU_STAT:
        with contextlib.suppress(OSError, ValueError):
            if (found := re.search(r"^nr_throttled (\d+)$", _read(path), re.MULTILINE)) and found[1] != "0":
                return f" (its container's limit has stopped it {found[1]} times so far)"
    return ""


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode()
