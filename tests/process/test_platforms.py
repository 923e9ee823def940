"""Platforms that lack what Linux has: on Windows nothing is a candidate, all else goes on; on macOS a process leads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.candidates import ROOT
from tests.support.servers import RedisServer

LACKS = "Python lacks time.clock_gettime, os.register_at_fork, signal.pthread_sigmask on this platform (win32)"


def windows(*arguments: str, status: int = 0, **environment: str) -> str:
    """What a management command says there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "COV"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.windows", *arguments],
        cwd=ROOT,
        env={**clean, "DJANGO_SETTINGS_MODULE": "tests.settings", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    assert "Traceback" not in said
    return said


def test_check_and_migrate_run_on_windows() -> None:
    """A warning says that the process is not participating."""
    for command in (["check"], ["check", "--deploy"], ["migrate", "-v0"]):
        said = windows(*command)
        assert f"(django_leader.W011) LEADER_ELECTIONS: this process is not participating: {LACKS}" in said


def test_on_windows_nobody_leads_whatever_is_asked_or_started() -> None:
    code = (
        "from django_leader import elections, is_leader\n"
        "print(is_leader(), is_leader())\n"
        "elections['default'].start(); elections['default'].stop()\n"
        "print(is_leader(), elections['default'].running, elections['default'].fencing_token)\n"
        "try: elections['default'].run()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    said = windows("shell", "-c", code, DJANGO_LEADER_AUTOSTART="1")
    assert "False False\n" in said
    assert "False False None\n" in said
    assert f"LeaderError LEADER_ELECTIONS['default']: this process cannot participate: {LACKS}" in said
    assert f"LEADER_ELECTIONS['default']: does not start: {LACKS}" in said, "it would have started"
    assert said.count("is_leader() is False in this process") == 1
    assert said.count(f"LEADER_ELECTIONS['default']: this process is not participating: {LACKS}") == 1


@pytest.mark.parametrize("command", ["guarded", "guarded_class"])
def test_on_windows_a_guarded_command_is_not_run_and_says_why(
    some_server: RedisServer, tmp_path: Path, command: str
) -> None:
    """Once, at once, and with an error, because no later try can succeed."""
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": some_server.url}
    (tmp_path / "on_server.py").write_text(f"from tests.settings import *\nCACHES = {{'default': {cache!r}}}\n")
    environment = {"DJANGO_SETTINGS_MODULE": "on_server", "PYTHONPATH": str(tmp_path)}
    said = windows(command, "--skip-checks", status=2, **environment).splitlines()
    label = f"LEADER_ELECTIONS['command:{command}']"
    why = f"{label}: this process cannot participate: {LACKS}; elections need a POSIX system"
    assert said == [f"CommandError: Not run: {why}"]


def test_on_windows_explain_says_why() -> None:
    first, *_ = (line for line in windows("leader_status", "--explain").splitlines() if "this process" in line)
    assert LACKS in first


def test_on_macos_an_election_leads(some_server: RedisServer) -> None:
    """Its boot clock is the monotonic one, which goes on there while the machine sleeps. It has no pidfds."""
    code = (
        "import os, select, sys, time\n"
        "del time.CLOCK_BOOTTIME, os.eventfd, os.pidfd_open, select.epoll\n"
        "sys.platform = 'darwin'\n"
        "import redis\n"
        "from django_leader import Config, LeaderElection\n"
        f"election = LeaderElection(redis.Redis(port={some_server.port}), Config(quarantine=0))\n"
        "election.start()\n"
        "print(election.wait_for_leadership(20))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
