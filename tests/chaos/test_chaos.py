"""The chaos test in short: every kind of harm once, and the plants that it must find."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import need
from tests.support.servers import program

from .checker import NOBODY, Report
from .fleet import Options
from .pairs import EVERY
from .run import Trial, chaos, table
from .sentinel_faults import SENTINEL_FAULTS
from .server_faults import CLOCK_KINDS

pytestmark = pytest.mark.timeout(300)
CLOCK = "a C compiler, or a server that heeds a preloaded library and so has a clock that can be set,"
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
"""Of this run. A test that fails prints it, and CHAOS_SEED repeats it."""


@pytest.fixture(autouse=True)
def _server() -> None:
    need(program("valkey") or program("redis-server"), "a server")


def held(report: Report, folder: Path) -> None:
    """Nothing is wrong. If something is, the logs stay.

    How soon one leads again is measured by ``make chaos``. Here other tests run beside it, and one must lead at all.
    """
    wrong = [one for one in report.violations if one.what != "late" or NOBODY in one.text]
    assert not wrong, "\n".join([f"seed {SEED}", table(report), *map(str, wrong[:20])])
    shutil.rmtree(folder)


def kinds(report: Report) -> set[str]:
    return {recovery.fault.kind for recovery in report.recoveries}


def test_every_kind_of_fault(tmp_path: Path) -> None:
    report = chaos(Options(), Trial(SEED, len(EVERY)), tmp_path, print)
    missing = set(EVERY) - kinds(report)
    assert missing <= set(CLOCK_KINDS)
    held(report, tmp_path)
    need(not missing, CLOCK)


def test_every_kind_of_fault_behind_sentinel(tmp_path: Path) -> None:
    trial = Trial(SEED, len(SENTINEL_FAULTS), sentinel=True)
    report = chaos(Options(min_replicas=1), trial, tmp_path, print)
    assert kinds(report) == set(SENTINEL_FAULTS)
    held(report, tmp_path)


@pytest.mark.parametrize(
    ("options", "kind", "found"),
    [
        (Options(quarantine=0), "flush and freeze", "overlap"),
        (Options(plant="no-deadline"), "leader cut off", "overlap"),
        # It is found only where answers are quick compared with the lease.
        pytest.param(
            Options(plant="forgetful"),
            "clock there, seen, and back",
            "overlap",
            marks=pytest.mark.quiet,
            id="forgetful",
        ),
        (Options(plant="blind-release"), "follower stops", "overlap"),
        (Options(plant="blind-claim", alone=0), "flush and kill -9", "hasty"),
        (Options(plant="no-fork-guard"), "fork", "disorder"),
        (Options(plant="lost-loss"), "exit", "unpaired"),
        (Options(plant="stopped-is-dead", alone=0), "SIGSTOP below the lease", "overlap"),
    ],
    ids=lambda value: value.plant or "no quarantine" if isinstance(value, Options) else value,
)
def test_a_planted_fault_is_found(options: Options, kind: str, found: str, tmp_path: Path) -> None:
    report = chaos(replace(options, candidates=2), Trial(SEED, 40, (kind,), until=found), tmp_path, print)
    if kind in CLOCK_KINDS:
        need(report.recoveries, CLOCK)
    assert report.count(found), f"seed {SEED}\n{table(report)}"


def test_two_primaries_without_min_replicas_are_found(tmp_path: Path) -> None:
    trial = Trial(SEED, 8, ("primary isolated",), sentinel=True, until="overlap")
    report = chaos(Options(), trial, tmp_path, print)
    assert report.count("overlap"), f"seed {SEED}\n{table(report)}"
