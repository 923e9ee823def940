"""Every command that the manual prints: it runs as printed, another test runs it, or there is a reason why none can."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.docs.pages import blocks
from tests.docs.site import Site
from tests.docs.terminals import commands
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, program

RUN_BY = {
    "tutorial": "test_tutorial.py::test_each_step_of_the_tutorial_goes_as_printed",
    "celery --app mysite beat": "test_howto_processes.py::test_of_two_celery_beats_one_sends_each_task_once",
    "python manage.py beat": "test_howto_processes.py::test_one_celery_beat_runs_and_the_next_one_waits",
    "python manage.py run_huey": "test_howto_processes.py::test_huey_with_processes_enqueues_too",
    "python manage.py schedule_": "test_howto_schedulers.py::test_one_scheduler_runs_and_the_next_one_waits",
    "python manage.py poll": "test_howto.py::test_a_long_running_command_ends_by_sigterm",
    "python manage.py runserver": "test_howto_processes.py::test_local_leads_at_once_without_redis",
    "until python": "test_howto_operations.py::test_the_script_waits_until_leadership_has_left_the_host",
}
"""Tests of this folder, by a page or by the beginning of a command."""
NOT_RUN = {
    "pip install django-leader": "it is not on the package index before its first release",
    "make": "the tests run within make test; .ci/run runs make demo",
    "kubectl": "it needs a cluster",
    "redis-cli -h 10.0.0.1": "it needs the reader's Sentinel",
}
"""Why no test runs what begins so."""
SERVERS = ("gunicorn", "uvicorn", "daphne", "hypercorn", "granian", "DJANGO_LEADER_AUTOSTART=1 celery")
"""Servers: ``tests/process/servers`` starts them in all ways. Here it is asked that they know the printed options."""
STRICT = """
from django.core.management.base import BaseCommand
from django_leader import leader_required


class Command(BaseCommand):
    @leader_required(exit_code=75)
    def handle(self, *args, **options):
        self.stdout.write("working")
"""
REDIS_CLI = """
import shlex, sys
import redis
words = sys.argv[1:]
database = int(words.pop(words.index("-n") + 1)) if "-n" in words else 0
words = [word for word in words if word != "-n"]
client = redis.Redis(port={port}, db=database, decode_responses=True)
for line in [words] if words else map(shlex.split, sys.stdin):
    print(client.execute_command(*line))
"""
"""What the pages use of ``redis-cli``, for a machine that has none."""


def printed() -> Iterator[tuple[str, str]]:
    """Each command, with its page."""
    for found in blocks(language="console"):
        yield from ((found.page, command) for command in commands(found) if command != "echo $?")
    yield from ((found.page, found.text.strip()) for found in blocks(language="sh"))


def named(command: str, page: str, known: dict[str, str]) -> str:
    """The entry of ``known`` for this command, or nothing."""
    return next((told for begin, told in known.items() if begin == page or command.startswith(begin)), "")


ALL = sorted(set(printed()))
OTHERS = {**RUN_BY, **NOT_RUN}
RUN = sorted({text for page, text in ALL if not named(text, page, OTHERS) and not text.startswith(SERVERS)})


def test_no_command_is_left_out() -> None:
    assert len(ALL) > 60
    assert len(RUN) > 15
    for known in (RUN_BY, NOT_RUN):
        for begin in known:
            assert any(begin == page or text.startswith(begin) for page, text in ALL), f"{begin} is printed nowhere"
    for test in RUN_BY.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests/docs" / file).read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    path = program("valkey") or program("redis-server")
    need(path, "a server")
    assert path
    with contextlib.closing(RedisServer(path).start()) as started:
        yield started


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server: RedisServer) -> Site:
    """A project with the commands of the pages, in which nobody leads, and a folder of programs."""
    made = Site(tmp_path_factory.mktemp("site"), server, "howto/cron")
    made.write("mysite/settings.py", 'LEADER_ELECTIONS |= {"reports": {"CACHE": "leader"}}\n')
    made.write("my_app/management/commands/strict.py", STRICT)
    made.write("redis_cli.py", REDIS_CLI.format(port=server.port))
    for name, words in (("python", ""), ("manage.py", "manage.py"), ("redis-cli", "redis_cli.py")):
        file = made.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        file.chmod(0o755)
    made.manage("migrate")
    return made


@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_manual_runs(site: Site, command: str) -> None:
    """With an exit status that is documented, and without complaint about the command itself."""
    path = f"{site.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=site.folder, env={**site.environment, "PATH": path, "LEADER_PASSWORD": "secret"},
        capture_output=True, text=True, timeout=2 * GENEROUS, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert not re.search(r"Traceback|usage:|not found|Unknown command|unrecognized|No such", said), said
    expected = {0, 1} if "leader_status" in command else {0}
    if "> /dev/full" in command:
        expected = {2}
    if "leader_jobs --run" in command:  # the project of this test has no jobs; the page about them is tested with some
        expected = {2}
    assert done.returncode in expected, said


@pytest.mark.parametrize("command", sorted({text for _, text in ALL if text.startswith(SERVERS)}))
def test_a_server_knows_the_options_that_are_printed(command: str) -> None:
    words = [word for word in command.split() if "=" not in word]
    found = shutil.which(words[0], path=str(Path(sys.executable).parent))
    need(found, words[0])
    assert found
    ask = [found, "worker", "--help"] if words[0] == "celery" else [found, "--help"]
    shown = subprocess.run(ask, capture_output=True, text=True, timeout=2 * GENEROUS, check=False, cwd=ROOT).stdout
    if words[0] == "celery":  # the options in front of its command
        shown += subprocess.run(
            [found, "--help"], capture_output=True, text=True, timeout=2 * GENEROUS, check=False, cwd=ROOT
        ).stdout
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", shown), option
