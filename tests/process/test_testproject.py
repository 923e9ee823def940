"""The test project as its users run it: the periodic job, the receiver, the guarded command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testproject.embedded import die_with_parent
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually, free_port

MANAGE = [sys.executable, str(ROOT / "testproject" / "manage.py")]


@pytest.fixture
def environment(some_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    return {**clean, "REDIS_URL": some_server.url, "TESTPROJECT_DB": str(tmp_path / "db.sqlite3")}


@pytest.fixture
def web(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of a web process."""
    subprocess.run([*MANAGE, "migrate", "-v0"], env=environment, check=True)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "testproject.serve", str(port)],
            cwd=ROOT,
            env={**environment, "DJANGO_SETTINGS_MODULE": "testproject.settings", "INSTANCE_ID": "web-1"},
            stderr=log,
            preexec_fn=die_with_parent,
        )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(GENEROUS) == -signal.SIGTERM, "as without us"
    said = (tmp_path / "log").read_text()
    assert "scheduler started" in said
    assert "scheduler stopped" in said, "at the end of the process the receiver was told"


def ask(address: str) -> Any:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def test_the_leader_of_the_web_processes_does_the_periodic_job(web: str, environment: dict[str, str]) -> None:
    said = eventually(lambda: (found := ask(web)) and found["is_leader"] and found, "the web process leads", 60)
    assert said["instance_id"] == "web-1"
    runs = eventually(lambda: (ask(f"{web}/runs/") or {}).get("runs"), "the job has run")
    assert {(run["instance_id"], run["fencing_token"]) for run in runs} == {("web-1", said["fencing_token"])}
    shown = subprocess.run(
        [*MANAGE, "leader_status", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    [row] = json.loads(shown.stdout)
    assert (row["leader"], row["token"], row["this_process"]) == (
        "web-1",
        said["fencing_token"],
        "is not participating",
    )


def test_of_two_processes_one_writes_the_report(environment: dict[str, str]) -> None:
    subprocess.run([*MANAGE, "migrate", "-v0"], env=environment, check=True)
    command = [*MANAGE, "nightly_report", "--seconds", "3600"]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    assert first.stdout
    with first.stdout:
        assert first.stdout.readline().startswith("writing the report, token ")
        second = subprocess.run(
            [*MANAGE, "nightly_report"], env=environment, capture_output=True, text=True, check=False
        )
        assert (second.returncode, second.stdout) == (0, "")
        assert f"(pid {first.pid}) leads the election 'command:nightly_report'" in second.stderr
        first.send_signal(2)  # Ctrl-C
        first.wait(GENEROUS)
    third = subprocess.run([*MANAGE, "nightly_report"], env=environment, capture_output=True, text=True, check=True)
    assert third.stdout.endswith("done\n"), "the interrupted command has let go"


def test_a_database_that_compares_tokens_refuses_a_former_leader(environment: dict[str, str]) -> None:
    subprocess.run([*MANAGE, "migrate", "-v0"], env=environment, check=True)
    script = (
        "from testproject.jobs.models import Report\n"
        "print([Report.write('r', text, token) for text, token in [('a', 5), ('b', 7), ('late', 5), ('b2', 7)]])\n"
        "print(Report.objects.get(name='r').text)"
    )
    shown = subprocess.run(
        [*MANAGE, "shell", "-v0", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines() == ["[True, True, False, True]", "b2"]


def test_a_writer_that_slept_through_its_lease_writes_over_nothing(environment: dict[str, str]) -> None:
    subprocess.run([*MANAGE, "migrate", "-v0"], env=environment, check=True)
    fast = {**environment, "LOCK_TTL": "1", "HEARTBEAT_INTERVAL": "0.3", "RETRY_INTERVAL": "0.3"}
    command = [*MANAGE, "nightly_report", "--seconds"]
    with subprocess.Popen(
        [*command, "5"],
        env={**fast, "INSTANCE_ID": "first"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    ) as first:
        assert first.stdout
        assert first.stdout.readline().startswith("writing the report, token ")
        first.send_signal(signal.SIGSTOP)
        try:

            def second_has_written() -> bool:
                second = subprocess.run(
                    [*command, "0"], env={**fast, "INSTANCE_ID": "second"}, capture_output=True, text=True, check=False
                )
                return second.stdout.endswith("done\n")

            eventually(second_has_written, "the lease of the one that sleeps is over", 60)
        finally:
            first.send_signal(signal.SIGCONT)
        first.wait(60)
    script = "from testproject.jobs.models import Report; print(Report.objects.get(name='nightly').text)"
    shown = subprocess.run(
        [*MANAGE, "shell", "-v0", "-c", script], env=fast, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "by second\n"
