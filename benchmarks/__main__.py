"""``python -m benchmarks``: this package beside its peers and beside what the machine allows.

``all`` also writes benchmarks/RESULTS.md and benchmarks/handover.svg. Figures of one machine at one time: the ratios
mean something, the times do not carry over.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import cost, crash, handover, heartbeat, idle, jobs, local_check, picture, report, scale, startup
from benchmarks.peers import HEARTBEAT, OURS, RETRY, SYSTEMS, TTL, present
from benchmarks.servers import KINDS

HERE = Path(__file__).resolve().parent

Measurement = Callable[[], report.Section]


def measurements(effort: float) -> dict[str, list[Measurement]]:
    """Return the sub-commands. ``effort`` 1 is the short form."""

    def times(rounds: int) -> int:
        return max(2, round(rounds * effort))

    short = min(1.0, effort)
    crashes = crash.Effort(times(20), times(4))
    return {
        "local": [lambda: local_check.measure(times(20))],
        "heartbeat": [lambda: heartbeat.measure(times(3000))],
        "jobs": [lambda: jobs.measure_claim(times(1000)), lambda: jobs.measure_thousand(times(4))],
        "handover": [lambda: handover.measure(handover.Effort(times(100), times(10), times(30)))],
        "scale": [
            lambda: scale.measure_light(times(60)),
            lambda: scale.measure(scale.Effort(times(40), times(15), times(8))),
        ],
        "crash": [lambda: crash.measure_here(crashes), lambda: crash.measure_elsewhere(crashes)],
        "idle": [lambda: idle.measure(20 * max(short, 0.25) * max(1, effort))],
        "cost": [lambda: cost.measure(20 * max(short, 0.25) * max(1, effort))],
        "startup": [lambda: startup.measure_setup(times(20)), lambda: startup.measure(times(20))],
    }


def main() -> int:
    """Measures and prints. Gives the exit status: 1 when something of ours could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default="all", choices=[*measurements(1), "all"], metavar="WHAT")
    parser.add_argument("--effort", type=float, default=1.0, help="times the rounds of the short form (default 1)")
    options = parser.parse_args()
    everything = "all" in options.what
    about = machine()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    sections: list[report.Section] = []
    whole = True
    for name, parts in measurements(options.effort).items():
        for measure in parts if everything or name in options.what else []:
            began = time.monotonic()
            try:
                section = measure()
            except Exception:  # one that cannot be measured leaves the others
                traceback.print_exc()
                whole = False
                continue
            section.seconds = time.monotonic() - began
            sections.append(section)
            print(section.text(), flush=True)
    values = {name: value for section in sections for name, value in section.values.items()}
    print(report.aims_text(values))
    if everything:
        about["command"] = f"`python -m benchmarks all --effort {options.effort:g}`"
        about["took"] = f"{sum(section.seconds for section in sections) / 60:.1f} minutes"
        write(about, sections)
    return 0 if whole else 1


def machine() -> dict[str, str]:
    """Return what was measured where."""
    pythons = " ".join((platform.python_implementation(), platform.python_version()))
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("Django", "redis", "django-redis"))
    servers = []
    for kind in KINDS.values():
        if kind.program():
            server = kind()
            servers.append(server.version())
            server.close()
    peers = {system.package: system.version for system in present().values() if system.package}
    missing = [f"{system.label} ({system.missing})" for system in SYSTEMS.values() if system.missing]
    return {
        "machine": f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.release()}",
        "versions": f"{pythons}, {packages}",
        "servers": ", ".join(servers) + "; on 127.0.0.1, as they come, Redis without persistence",
        "systems": ", ".join(f"{package} {version}" for package, version in peers.items()),
        "not on this machine": ", ".join(missing) or "none",
        "durations": f"TTL {TTL:g} s, heartbeat {HEARTBEAT:g} s, retry {RETRY:g} s, for everybody",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(about: dict[str, str], sections: list[report.Section]) -> None:
    """RESULTS.md and the picture."""
    (HERE / "RESULTS.md").write_text(report.document(about, sections), encoding="utf-8")
    samples = next((section.samples for section in sections if section.samples), None)
    if samples:
        title = "Graceful hand-over among 3 processes: from stop() to the next gain callback"
        (HERE / "handover.svg").write_text(picture.draw(title, samples, SYSTEMS[OURS].label), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
