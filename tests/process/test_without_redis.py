"""A project that ``startproject`` made, with its cache in local memory, as on a laptop without Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from testproject.embedded import die_with_parent
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, eventually, free_port

LOCAL = 'LEADER_ELECTIONS = {"default": {"LOCAL": True, "RETRY_INTERVAL": 0.2}}'
LOG = """
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"django_leader": {"handlers": ["stderr"], "level": "INFO"}},
}
"""
URLS = """
import os
from django.http import JsonResponse
from django.urls import path
from django_leader import elections, is_leader

def show(request):
    election = elections["default"]
    found = {"is_leader": is_leader(), "token": election.fencing_token, "pid": os.getpid()}
    return JsonResponse(found | {"running": election.running, "leader": election.get_leader_id()})

def who(request):
    return JsonResponse({"is_leader": is_leader(), "pid": os.getpid()})

def resign(request):
    return JsonResponse({"resigned": elections["default"].resign()})

urlpatterns = [path("", show), path("who", who), path("resign", resign)]
"""
APP = """
import os

from django.apps import AppConfig

def say(what):
    def receiver(fencing_token, reason="", **kwargs):
        os.write(1, f"{what} {fencing_token} {reason}\\n".encode())  # in one piece, beside the lines of the log
    return receiver

gained, lost = say("gained"), say("lost")

class App(AppConfig):
    name = "jobs"
    def ready(self):
        from django_leader import became_leader, lost_leadership
        became_leader.connect(gained)
        lost_leadership.connect(lost)
"""
MODELS = """
from contextlib import contextmanager

from django_leader import elections

@elections["default"].while_leading
@contextmanager
def work(token):
    yield
"""
COMMAND = """
from django.core.management.base import BaseCommand
from django_leader import leader_required

class Command(BaseCommand):
    @leader_required(wait=0)
    def handle(self, *args, **options):
        self.stdout.write("the body ran")
"""
TESTS = """
from django.test import TestCase
from django_leader import is_leader

class Tests(TestCase):
    def test_nobody_leads(self):
        self.assertFalse(is_leader())
"""


class Project:
    """On disk; ``manage`` runs a command of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
        self.environment = {**clean, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        call_command("startproject", "mysite", str(folder))
        settings = folder / "mysite" / "settings.py"
        settings.write_text(
            settings.read_text().replace("INSTALLED_APPS = [", 'INSTALLED_APPS = ["django_leader", "jobs.apps.App",')
        )
        (folder / "mysite" / "urls.py").write_text(URLS)
        commands = folder / "jobs" / "management" / "commands"
        commands.mkdir(parents=True)
        for package in (folder / "jobs", commands.parent, commands):
            (package / "__init__.py").touch()
        (folder / "jobs" / "apps.py").write_text(APP)
        (folder / "jobs" / "tests.py").write_text(TESTS)
        (commands / "nightly.py").write_text(COMMAND)

    def add(self, *lines: str) -> None:
        """Append ``lines`` to its settings."""
        with (self.folder / "mysite" / "settings.py").open("a") as file:
            file.write("\n".join(["", *lines, ""]))

    def manage(self, *arguments: str) -> tuple[int, str]:
        """Return the exit status and all that was printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout

    @contextmanager
    def serving(self, *more: str) -> Iterator[tuple[str, Path, subprocess.Popen[bytes]]]:
        """``runserver``, while it answers: its address, its log and its process."""
        port = free_port()
        log = self.folder / f"log-{port}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "manage.py", "runserver", f"127.0.0.1:{port}", *more],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        address = f"http://127.0.0.1:{port}/"
        try:
            eventually(lambda: ask(address + "who") or process.poll() is not None, "it serves", 60)
            assert process.poll() is None, log.read_text()
            yield address, log, process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(GENEROUS)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGABRT)  # the log then says where each thread is
                    process.wait(GENEROUS)
                    raise AssertionError(f"SIGINT does not end it:\n{log.read_text()}") from None


def ask(address: str) -> Any:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("setting", ["", 'LEADER_ELECTIONS = {"default": {"AUTOSTART": False}}'])
def test_commands_that_need_no_election_run(project: Project, setting: str) -> None:
    project.add(setting)
    for command in (["check"], ["migrate"], ["test"], ["nothing"]):
        status, said = project.manage(*command)
        assert status == (command == ["nothing"]), said
        assert "Traceback" not in said
        if command != ["nothing"]:
            assert "django_leader.W003" in said
    status, said = project.manage("check", "--deploy")
    assert status == 1
    assert "django_leader.E003" in said


def test_the_server_serves_and_says_once_that_nobody_leads(project: Project) -> None:
    project.add(LOG)
    with project.serving("--noreload") as (address, log, _):
        assert ask(address + "who")["is_leader"] is False
        assert ask(address + "who")["is_leader"] is False
        said = log.read_text()
    assert said.count("LEADER_ELECTIONS['default']: not started. CACHE is 'default'") == 1
    assert "Set LOCAL to True to develop without Redis" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("cache", ["default", "nowhere"])
def test_what_needs_an_election_ends_with_one_sentence(project: Project, cache: str) -> None:
    project.add(f'LEADER_ELECTIONS = {{"default": {{"CACHE": {cache!r}}}}}')
    for command in ("nightly", "leader_status"):
        status, said = project.manage(command)
        assert status == 2
        sentence = said.splitlines()[-1]
        assert f": CACHE is {cache!r}, " in sentence
        assert "Traceback" not in said


def test_settings_that_cannot_be_used_hinder_no_server(project: Project) -> None:
    project.add('LEADER_ELECTIONS = ["default"]')
    code = "import mysite.wsgi; from django_leader import is_leader; print(is_leader(), is_leader())"
    environment = {**project.environment, "DJANGO_SETTINGS_MODULE": "mysite.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "False False\n", done.stderr
    start, asked = done.stderr.splitlines()
    assert "LEADER_ELECTIONS must be a dict of dicts" in start
    assert "no election starts in this process" in start
    assert "is_leader('default') is False" in asked


@pytest.mark.parametrize(
    ("number", "setting"),
    [("E002", {"default": {"LOCKTTL": 10}}), ("E006", {"default": {"LOCK_TTL": "10"}}), ("E001", [])],
)
def test_a_decorator_at_import_leaves_bad_settings_to_the_check(project: Project, number: str, setting: Any) -> None:
    (project.folder / "jobs" / "models.py").write_text(MODELS)
    project.add(f"LEADER_ELECTIONS = {setting!r}")
    for command in ("check", "migrate", "nightly"):
        status, said = project.manage(command)
        assert (status, "Traceback" in said) == (1, False)
        assert f"?: (django_leader.{number}) LEADER_ELECTIONS" in said
    status, said = project.manage("leader_status")
    assert (status, "Traceback" in said) == (2, False)
    assert said.splitlines()[-1].startswith("CommandError: LEADER_ELECTIONS")


def test_a_laptop_leads_for_itself(project: Project) -> None:
    project.add(LOCAL, LOG)
    for command in (["check"], ["migrate"], ["test"]):
        status, said = project.manage(*command)
        assert status == 0, said
        assert "(django_leader." not in said
    status, said = project.manage("check", "--deploy")
    assert status == 1
    assert "django_leader.E018" in said
    status, said = project.manage("nightly")
    assert (status, "the body ran" in said) == (0, True), said
    with project.serving("--noreload") as (address, log, process):
        first = eventually(lambda: (found := ask(address)) and found["is_leader"] and found, "it leads")
        assert first["leader"]
        assert first["token"] > 1_700_000_000 * 10**6
        with project.serving("--noreload") as (other, _, _):
            second = eventually(lambda: (found := ask(other)) and found["is_leader"] and found, "the other leads, too")
            assert second["pid"] != first["pid"]
        status, said = project.manage("leader_status")
        assert status == 2
        assert "LOCAL is True" in said
        assert ask(address + "resign") == {"resigned": True}
        again = eventually(
            lambda: (found := ask(address)) and found["is_leader"] and found["token"] != first["token"] and found
        )
        assert again["token"] > first["token"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(GENEROUS) == -signal.SIGTERM
        said = log.read_text()
    events = [line.split() for line in said.splitlines() if line.startswith(("gained", "lost"))]
    assert [(what, int(token)) for what, token, *_ in events] == [
        ("gained", first["token"]), ("lost", first["token"]), ("gained", again["token"]), ("lost", again["token"]),
    ]  # fmt: skip
    assert "nothing is shared" in said


def test_without_debug_a_local_election_is_warned_of_at_start(project: Project) -> None:
    project.add(LOCAL, "DEBUG = False", "ALLOWED_HOSTS = ['*']")  # without LOG: only warnings are printed
    with project.serving("--noreload") as (address, log, _):
        eventually(lambda: ask(address + "who")["is_leader"])
        assert log.read_text().count("LOCAL is True") == 1
    project.add("DEBUG = True")
    with project.serving("--noreload") as (address, log, _):
        eventually(lambda: ask(address + "who")["is_leader"])
        assert "LOCAL is True" not in log.read_text()
