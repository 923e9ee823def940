"""What is said where ``is_leader()`` is asked in a process that is not participating: a table, then real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.runtime.grant import Grant, new_cell
from django_leader.startup import bystander
from django_leader.startup.autostart import Seen, decide
from django_leader.startup.bystander import Situation, explain
from django_leader.startup.starter import starter
from tests.support.candidates import ROOT

ME, PARENT = 42, 41
TABLE: list[tuple[dict[str, Any], int | None, set[str], str | None]] = [
    ({"command": "run_huey"}, None, set(), "WARNING this is the management command 'run_huey'"),
    ({"command": "shell"}, None, set(), "WARNING this is the management command 'shell'"),
    ({"celery": True}, None, set(), "WARNING this is a Celery process"),
    ({"celery": True, "variable": "1"}, PARENT, set(), "WARNING it is a child of process 41"),
    ({"celery": True, "variable": "1"}, ME, set(), None),
    ({"variable": "flase"}, None, set(), "WARNING the environment variable"),
    ({"threadless": True}, None, set(), "WARNING uWSGI runs without threads"),
    ({"testing": True, "inherited": True, "loaded": True}, None, set(), "WARNING pytest has started this server"),
    ({}, None, set(), "WARNING nothing shows that this process serves requests"),
    # what somebody has decided
    ({"variable": "0"}, None, set(), "INFO the environment variable"),
    # what is about to start
    ({}, None, {"uvicorn"}, None),
    ({"loaded": True}, None, set(), None),
    ({"entry_point": True}, None, set(), None),
    ({"prefork_master": True}, None, set(), None),
    # what is nobody's mistake
    ({"testing": True}, None, set(), ""),
    ({"testing": True, "inherited": True}, None, set(), ""),
    ({"command": "runserver"}, None, set(), ""),
]


@pytest.mark.parametrize(("seen", "started", "modules", "said"), TABLE)
def test_what_is_said_depends_on_why_the_process_is_not_participating(
    seen: dict[str, Any], started: int | None, modules: set[str], said: str | None
) -> None:
    decision = decide(Seen(**seen), "auto")
    explained = explain(Situation(decision, Seen(**seen), started, False), ME, modules)
    if not said:
        assert explained == (None if said is None else (0, ""))
        return
    assert explained
    level, word = said.split(" ", 1)
    assert (explained[0] >= 30, explained[1].startswith(word)) == (level == "WARNING", True)
    assert "get_leader_id()" in explained[1]


def test_nothing_is_said_while_django_is_being_set_up() -> None:
    assert explain(Situation(decide(Seen(command="migrate"), "auto"), Seen(), None, True), ME, ()) is None


def test_while_the_answer_is_open_each_question_looks_for_the_servers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has thousands of modules, and may ask in each request."""

    class Modules(dict[str, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("all modules were looked at")

    situation = Situation(decide(Seen(), "auto"), Seen(), None, False)
    monkeypatch.setattr(bystander, "situation_of", lambda alias: situation)
    monkeypatch.setattr(bystander, "sys", SimpleNamespace(modules=Modules(uvicorn=None)))
    assert not bystander.asked("default")
    monkeypatch.setattr(bystander, "sys", SimpleNamespace(modules=Modules()))
    assert bystander.asked("default")


def test_nothing_is_said_here_because_this_is_a_test(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bystander, "situation_of", starter.situation_of)
    assert bystander.asked("default")
    assert bystander.asked("no such election") is False
    assert caplog.text == ""


ASK = "from django_leader import elections, is_leader\nprint([is_leader(), is_leader()])\n"
SETUP = "import logging; logging.basicConfig(level='INFO')\nimport os, sys, django\n"
LINE = "django_leader:LEADER_ELECTIONS['default']: is_leader() is False in this process"


def run(code: str, **environment: str) -> tuple[str, str]:
    """What it printed, and what it said in the log."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "COV"))}
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        cwd=ROOT,
        env={**clean, "DJANGO_SETTINGS_MODULE": "tests.settings", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


def test_a_script_that_asks_is_told_once() -> None:
    out, said = run("django.setup()\n" + ASK)
    assert out == "[False, False]\n"
    assert said.count(LINE) == 1
    assert "because it is not participating: nothing shows that this process serves requests" in said


def test_a_command_that_asks_is_warned_once() -> None:
    """A command that does not ask is not warned."""
    manage = "from django.core.management import execute_from_command_line as e\n"
    _, said = run(manage + f"e(['manage.py', 'shell', '-c', {ASK!r}])")
    assert said.count(f"WARNING:{LINE}, because it is not participating: this is the management command 'shell'") == 1
    assert LINE not in run(manage + "e(['manage.py', 'check'])")[1]
    assert LINE not in run(manage + "e(['manage.py', 'leader_status', '--explain'])")[1]


@pytest.mark.parametrize(("apps", "said"), [("()", 1), ("('django_leader',)", 0)], ids=["not installed", "installed"])
def test_a_project_that_has_not_installed_the_package_is_told_once(apps: str, said: int) -> None:
    code = f"from django.conf import settings; settings.configure(INSTALLED_APPS={apps})\n"
    asks = "from django_leader import elections, is_leader\nprint(is_leader(), elections['command:x'].is_leader())\n"
    out, text = run(code + asks + "django.setup()\n" + ASK)
    assert out == "False False\n[False, False]\n"
    assert text.count(f"WARNING:{LINE}, because it is not participating") == 1
    assert text.count("without 'django_leader' in INSTALLED_APPS. Add it there, or call start().") == said


def test_who_has_opted_out_is_told_for_information() -> None:
    assert f"INFO:{LINE}" in run("django.setup()\n" + ASK, DJANGO_LEADER_AUTOSTART="0")[1]


def test_a_program_that_will_serve_is_not_told() -> None:
    assert LINE not in run("import testproject.wsgi\n" + ASK)[1]


def test_a_handler_of_the_log_may_ask_too() -> None:
    code = (
        "django.setup()\nfrom django_leader import is_leader\n"
        "logging.getLogger('django_leader').addFilter(lambda record: not is_leader())\n"
    )
    assert run(code + ASK)[1].count(LINE) == 1


def test_after_a_start_by_hand_a_process_is_told_no_more() -> None:
    """A child that it forks is, once, because it is not participating."""
    out, said = run(
        "django.setup()\n"
        "from django_leader import elections, is_leader\n"
        "print(is_leader())\n"
        "elections['default'].start(); print(elections['default'].running, is_leader()); sys.stdout.flush()\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(is_leader() or is_leader() or 0)\n"
        "print(os.waitpid(pid, 0)[1])\n"
    )
    assert out == "False\nTrue False\n0\n"
    assert said.count(LINE) == 2


def test_the_hook_is_called_until_it_has_settled_it_and_never_harms() -> None:
    calls: list[str] = []
    answers = iter(["later", "raises", "settled"])

    def hook() -> bool:
        election.is_leader()  # as a filter of the log may
        calls.append(answer := next(answers))
        if answer == "raises":
            raise LookupError
        return answer == "settled"

    election = LeaderElection(redis.Redis(), Config(), when_idle=hook)
    election.override(Grant(1, new_cell(0.0)))
    assert not election.is_leader()
    assert calls == [], "a test has said who leads"
    election.override(None)
    assert [election.is_leader() for _ in range(5)] == [False] * 5
    assert calls == ["later", "raises", "settled"]
