"""What an election costs while nothing happens: a hundred and a thousand candidates of ours, and of the direct port."""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

from benchmarks.fleet import Fleet
from benchmarks.peers import OURS, PORT, RETRY, SYSTEMS
from benchmarks.report import Section
from benchmarks.servers import Redis, Trouble
from benchmarks.stats import number

PROCESSES = 20
COUNTS = (100, 1000)


class Snapshot(NamedTuple):
    """What has been used so far."""

    at: float
    commands: float
    requests: float
    server: float
    cpu: float
    switches: float


def measure(window: float) -> Section:
    """Both systems at the same time, each on a server of its own."""
    section = Section(
        "Idle: one leader, the others follow",
        "python -m benchmarks idle",
        f"Light candidates: threads in {PROCESSES} processes; both systems at the same time, each on a server of its"
        f" own, for {window:.0f} s. Requests: what the server read (`total_reads_processed`); a pipeline is one."
        " A candidate's CPU: its processes' by their number of candidates.",
        (
            "system, candidates",
            "requests/s",
            "commands/s",
            "server CPU (ms/s)",
            "connections",
            "CPU per candidate (s/h)",
            "voluntary switches/s per candidate",
        ),
    )
    for count in COUNTS:
        try:
            _pair(section, count, window)
        except Trouble as error:
            section.left_out[f"{count:,}"] = str(error)
    return section


def _pair(section: Section, count: int, window: float) -> None:
    with contextlib.ExitStack() as stack:
        fleets = {name: Fleet(name, PROCESSES, count // PROCESSES) for name in (OURS, PORT)}
        for fleet in fleets.values():
            stack.callback(fleet.close)
            fleet.settle()
        time.sleep(3 * RETRY)
        before = {name: _snapshot(fleet) for name, fleet in fleets.items()}
        time.sleep(window)
        after = {name: _snapshot(fleet) for name, fleet in fleets.items()}
        connections = {name: _server(fleet).info("clients")["connected_clients"] - 1 for name, fleet in fleets.items()}
    for name, old in before.items():
        new = after[name]
        seconds = new.at - old.at
        requests, commands = (new.requests - old.requests - 1) / seconds, (new.commands - old.commands - 1) / seconds
        server, cpu = (new.server - old.server) / seconds, (new.cpu - old.cpu) / seconds / count
        switches = (new.switches - old.switches) / seconds / count
        cells = (requests, commands, server * 1000, connections[name], cpu * 3600, switches)
        section.rows.append((f"{SYSTEMS[name].label}, {count:,}", *(number(cell) for cell in cells)))
        if count == max(COUNTS):
            end = "" if name == OURS else " port"
            section.values[f"idle requests{end}"] = requests
            section.values[f"idle server{end}"], section.values[f"idle candidate{end}"] = server, cpu


def _server(fleet: Fleet) -> Redis:
    assert isinstance(fleet.server, Redis)
    return fleet.server


def _snapshot(fleet: Fleet) -> Snapshot:
    told, used = _server(fleet).info("stats", "cpu"), fleet.usage()
    server = told["used_cpu_user"] + told["used_cpu_sys"]
    requests = told["total_reads_processed"]
    return Snapshot(time.monotonic(), told["total_commands_processed"], requests, server, used.cpu, used.switches)
