"""What a Django process pays for being a candidate: memory, CPU and wake-ups, beside the same process without us."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet import Process
from benchmarks.peers import RETRY
from benchmarks.report import Section
from benchmarks.servers import Redis
from benchmarks.stats import number

ROLES = {
    "without": "Django and django-redis alone",
    "follower": "the same, as a follower",
    "leader": "the same, as the leader",
}


def measure(window: float) -> Section:
    """Measure the three at the same time."""
    section = Section(
        "Cost of a Django process",
        "python -m benchmarks cost",
        f"`django.setup()` with small settings and one use of the cache, then idle for {window:.0f} s.",
        ("", "RSS (MB)", "PSS (MB)", "CPU (s/h)", "voluntary switches/s", "threads"),
    )
    with contextlib.ExitStack() as stack:
        server = Redis()
        stack.callback(server.close)
        processes: dict[str, Process] = {}
        for role in ("without", "leader", "follower"):  # who comes first leads
            processes[role] = Process("benchmarks.processes", "member", role, server.address)
            stack.callback(processes[role].close)
            processes[role].hear()
        time.sleep(2 * RETRY)
        before, began = {role: _usage(process) for role, process in processes.items()}, time.monotonic()
        time.sleep(window)
        after, seconds = {role: _usage(process) for role, process in processes.items()}, time.monotonic() - began
        for role, label in ROLES.items():
            new, old, memory = after[role], before[role], _memory(processes[role].pid)
            cells = (*memory, (new["cpu"] - old["cpu"]) / seconds * 3600, (new["switches"] - old["switches"]) / seconds)
            threads = len(list(Path(f"/proc/{processes[role].pid}/task").iterdir()))
            section.rows.append((label, *(number(cell) for cell in cells), str(threads)))
    return section


def _usage(process: Process) -> dict[str, Any]:
    process.tell("usage")
    return process.hear()


def _memory(pid: int) -> tuple[float, float]:
    """Resident and proportional megabytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kilobytes["Rss"] / 1000, kilobytes["Pss"] / 1000
