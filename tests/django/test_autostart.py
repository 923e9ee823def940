"""Where an election starts by itself: the decision as a table, the looking in real processes."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.core import checks
from django.core.signals import request_started
from pytest_django import Settings

from django_leader import elections
from django_leader.startup import starter as starting
from django_leader.startup.autostart import TEST_RUN, Decision, Seen, decide, inspect_process
from django_leader.startup.starter import starter
from tests.support.candidates import ROOT
from tests.support.servers import RedisServer, eventually

pytestmark = pytest.mark.django_db  # Django's own receivers of request_started look at the database
NOW, WORKERS, FIRST, NEVER = "now", "in each worker", "at the first request", "never"

TABLE: list[tuple[dict[str, Any], Any, str]] = [
    # rule 1: the environment wins, then the setting
    ({"variable": "1", "testing": True, "command": "migrate"}, False, NOW),
    ({"variable": "on", "command": "shell"}, "auto", NOW),
    ({"variable": "0", "entry_point": True}, True, NEVER),
    ({"variable": "False", "command": "runserver", "serving": True}, "auto", NEVER),
    ({"variable": "flase", "entry_point": True}, "auto", NEVER),
    ({"variable": "flase", "prefork_master": True}, True, NEVER),
    ({"command": "migrate", "testing": True}, True, NOW),
    ({"command": "runserver"}, True, NEVER),
    ({"entry_point": True, "variable": "1"}, False, NOW),
    ({"celery": True, "variable": "1"}, "auto", NOW),
    ({"celery": True}, True, NOW),
    # which never changes that only processes that serve are candidates
    ({"command": "runserver", "variable": "1"}, "auto", NEVER),
    ({"prefork_master": True, "entry_point": True}, True, WORKERS),
    ({"prefork_master": True, "variable": "1"}, True, WORKERS),
    ({"prefork_master": True, "variable": "0"}, True, NEVER),
    ({"prefork_master": True}, False, NEVER),
    ({"entry_point": True}, False, NEVER),
    # nor does anything change it on a platform that cannot carry an election
    ({"unsupported": "it lacks something", "variable": "1"}, True, NEVER),
    # rule 2: tests
    ({"testing": True, "entry_point": True}, "auto", NEVER),
    ({"testing": True, "command": "runserver", "serving": True}, "auto", NEVER),
    # rule 3: management commands
    ({"command": "runserver", "serving": True}, "auto", NOW),
    ({"command": "runserver_plus", "serving": True}, "auto", NOW),
    ({"command": "runserver"}, "auto", NEVER),
    *(({"command": name}, "auto", NEVER) for name in ("migrate", "shell", "test", "check", "collectstatic", "help")),
    ({"command": "migrate", "serving": True}, "auto", NEVER),
    # rule 4: Celery, whose processes serve no request
    ({"celery": True}, "auto", NEVER),
    ({"celery": True, "entry_point": True}, "auto", NEVER),
    # rules 5 and 6: who only forks, and who has no threads
    ({"prefork_master": True, "entry_point": True}, "auto", WORKERS),
    ({"threadless": True, "entry_point": True}, "auto", NEVER),
    ({"threadless": True, "prefork_master": True, "variable": "1"}, True, NEVER),
    # rule 7: a server, and a program that loads the application as if it were one
    ({"entry_point": True}, "auto", NOW),
    ({"loaded": True}, "auto", FIRST),
    ({"loaded": True}, True, NOW),
    ({"loaded": True}, False, NEVER),
    ({"loaded": True, "testing": True, "inherited": True}, "auto", NEVER),
    ({"loaded": True, "testing": True, "inherited": True, "variable": "1"}, "auto", NOW),
    # rule 8: anything else
    ({}, "auto", FIRST),
]


def test_a_command_that_serves_can_be_named() -> None:
    assert decide(Seen(command="serve_uvicorn"), "auto").start == NEVER
    assert decide(Seen(command="serve_uvicorn"), "auto", ["serve_uvicorn"]).start == NOW
    assert decide(Seen(command="serve_uvicorn", testing=True), "auto", ["serve_uvicorn"]).start == NEVER


@pytest.mark.parametrize(("seen", "setting", "start"), TABLE)
def test_the_decision(seen: dict[str, Any], setting: Any, start: str) -> None:
    decision = decide(Seen(**seen), setting)
    assert decision.start == start
    assert decision.why


def test_under_pytest_no_election_starts_by_itself() -> None:
    assert inspect_process().testing
    assert {decision.start for decision in starter.decisions.values()} == {"never"}


SAY = """
import os, sys, atexit
def said():
    from django_leader.startup.starter import starter
    print("DECISION", {k: tuple(v)[0] for k, v in starter.decisions.items()})
atexit.register(said)
"""


def decision_of(arguments: list[str], **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "COV"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**clean, "DJANGO_SETTINGS_MODULE": "tests.settings", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("DECISION")]
    assert lines, done.stderr
    return lines[-1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from django.core.wsgi import get_wsgi_application; get_wsgi_application()", FIRST),
        ("from django.core.asgi import get_asgi_application; get_asgi_application()", FIRST),
        ("import testproject.wsgi", FIRST),
        ("import pydoc; pydoc.render_doc('testproject.wsgi')", FIRST),
        (
            "import pkgutil, waitress.runner as r; r.run(['w', 'testproject.wsgi:application'], lambda *a, **k: None)",
            NOW,
        ),
        ("import django; django.setup()", FIRST),
        ("from django.core.management import execute_from_command_line as e; e(['manage.py', 'check'])", NEVER),
        ("from django.core.management import execute_from_command_line as e; e(['manage.py', 'diffsettings'])", NEVER),
    ],
)
def test_the_stack_of_a_real_process(code: str, expected: str) -> None:
    assert f"'{expected}'" in decision_of(["-c", SAY + code])


def test_the_environment_of_a_real_process_wins() -> None:
    code = "import django; django.setup()"
    assert "'never'" in decision_of(["-c", SAY + code], DJANGO_LEADER_AUTOSTART="0")


@pytest.fixture
def decided(project: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the starter decide as if it saw something else."""

    def decide_for(start: Any) -> None:
        monkeypatch.setattr(starter, "_started", {})
        wanted = start if callable(start) else lambda *args: Decision(start, "the test wants it")
        monkeypatch.setattr(starting, "decide", wanted)
        monkeypatch.setattr(starting, "in_tests", lambda: False)
        starting.begin()

    yield decide_for
    request_started.disconnect(dispatch_uid="django_leader.startup.starter")
    starter.decisions = {"default": Decision("never", TEST_RUN)}


def test_what_starts_now_starts_when_all_apps_are_ready(decided: Any) -> None:
    decided("now")
    eventually(lambda: elections["default"].running)


def test_what_starts_at_the_first_request_starts_then_and_once(decided: Any) -> None:
    decided("at the first request")
    assert not elections["default"].running
    request_started.send(sender=None)
    eventually(lambda: elections["default"].running)
    elections["default"].stop()
    request_started.send(sender=None)
    assert not elections["default"].running, "what the application stopped stays stopped"


def test_the_first_request_starts_what_has_not_started_at_once(decided: Any, project: Settings) -> None:
    """An election that has started at once keeps no other from it, and is not started again after a stop."""
    project.LEADER_ELECTIONS = {"default": {"AUTOSTART": True}, "b": {}}
    decided(lambda seen, setting, *args: decide(Seen(), setting))
    eventually(lambda: elections["default"].running)
    elections["default"].stop()
    request_started.send(sender=None)
    assert elections["b"].running
    assert not elections["default"].running, "what the application stopped stays stopped"


def test_a_fork_that_serves_starts_at_its_first_request(decided: Any) -> None:
    decided("now")
    eventually(lambda: elections["default"].running)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            inherited = elections["default"].running
            request_started.send(sender=None)
            status = 42 if not inherited and elections["default"].running else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_never_listens_to_no_request(decided: Any) -> None:
    decided("never")
    request_started.send(sender=None)
    assert not elections["default"].running


def test_bad_settings_stop_no_process_from_starting(project: Settings, caplog: pytest.LogCaptureFixture) -> None:
    project.LEADER_ELECTIONS = []
    starting.begin()
    assert "no election starts in this process" in caplog.text


def test_bad_settings_of_one_election_hinder_no_other(
    decided: Any, project: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    project.LEADER_ELECTIONS = {"bad": {"LOCK_TTL": "10"}, "default": {}}
    decided("now")
    eventually(lambda: elections["default"].running)
    assert "LEADER_ELECTIONS['bad']: not started. LOCK_TTL is '10'" in caplog.text


def test_requests_in_djangos_own_test_environment_start_nothing() -> None:
    code = (
        SAY + "import django; django.setup()\n"
        "from django.test.utils import setup_test_environment; setup_test_environment()\n"
        "from django.test import Client; Client().get('/nowhere/')\n"
        "from django_leader import elections\n"
        "assert not elections['default'].running\n"
        "print('DECISION fine', file=sys.stderr)\n"
    )
    assert decision_of(["-c", code]) == "DECISION fine"


@pytest.mark.parametrize("start", ["now", "in each worker", "at the first request"])
def test_an_election_that_cannot_start_hinders_no_other_and_is_told_once(
    decided: Any, project: Settings, caplog: Any, start: str
) -> None:
    project.LEADER_ELECTIONS = {"default": {"CACHE": "local"}, "b": {}}
    decided(start)
    request_started.send(sender=None)
    eventually(lambda: elections["b"].running)
    request_started.send(sender=None)
    assert caplog.text.count("LEADER_ELECTIONS['default']: not started. CACHE is 'local'") == 1
    assert starter.decisions["default"].start == "never"
    assert starter.decisions["default"].why.startswith("it failed: CACHE is 'local'")


def test_a_stack_with_gunicorns_arbiter_and_no_worker_is_a_master() -> None:
    arbiter, worker = (
        {"__name__": "gunicorn.arbiter", "inspect_process": inspect_process},
        {"__name__": "gunicorn.workers.base"},
    )
    exec("def run(f): return f()", arbiter)
    exec("def run(f): return f()", worker)
    assert arbiter["run"](inspect_process).prefork_master  # type: ignore[operator]
    assert not arbiter["run"](lambda: worker["run"](inspect_process)).prefork_master  # type: ignore[operator]


APPLICATION: dict[str, Any] = {"__name__": "django.core.asgi"}
exec(
    "def get_asgi_application(): return inspect_process()",
    APPLICATION | {"inspect_process": inspect_process},
    APPLICATION,
)
LOADED = [
    (["__main__"], "loaded"),
    (["__mp_main__"], "loaded"),
    (["sphinx.ext.autodoc"], "loaded"),
    (["celery.loaders.app"], "loaded"),
    (["multiprocessing.spawn", "__mp_main__"], "loaded"),
    (["multiprocessing.forkserver", "__mp_main__"], "loaded"),
    (["concurrent.futures.process", "my_project.asgi"], "loaded"),
    (["uvicorn_of_mine.importer", "my_project.asgi"], "loaded"),
    (["hypercorn.run", "my_project.asgi"], "loaded"),  # its reloader
    (["gunicorn.arbiter", "my_project.asgi"], "loaded"),  # its master
    (["hypercorn.asyncio.run", "my_project.asgi"], "entry_point"),
    (["gunicorn.workers.sync", "my_project.asgi"], "entry_point"),
    (["__main__", "uvicorn.importer", "my_project.asgi"], "entry_point"),
    (["multiprocessing.spawn", "granian.server.mp", "my_project.asgi"], "entry_point"),
    (["daphne.cli", "my_project.asgi"], "entry_point"),
]


@pytest.mark.parametrize(("modules", "what"), LOADED, ids=lambda value: "-".join(value) if value[1:] else None)
def test_loading_the_application_counts_as_serving_only_for_known_servers(modules: list[str], what: str) -> None:
    """Another module that loads it may be a script."""
    call: Any = APPLICATION["get_asgi_application"]
    for module in reversed(modules):
        namespace: dict[str, Any] = {"__name__": module}
        exec("def run(call): return call()", namespace)
        call = functools.partial(namespace["run"], call)
    seen = call()
    assert {"entry_point": seen.entry_point, "loaded": seen.loaded} == {
        "entry_point": what == "entry_point",
        "loaded": what == "loaded",
    }


@pytest.mark.parametrize("module", ["uwsgi", "mod_wsgi"])
def test_a_server_in_c_leaves_a_module_and_nothing_on_the_stack(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    server: Any = ModuleType(module)
    server.worker_id, server.has_threads = lambda: 1, 1
    monkeypatch.setitem(sys.modules, module, server)
    assert APPLICATION["get_asgi_application"]().entry_point


@pytest.mark.parametrize("value", ["flase", "2", "now"])
def test_an_unknown_value_of_the_variable_starts_nothing(
    project: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    """It is logged as an error, and reported by a check."""
    monkeypatch.setenv("DJANGO_LEADER_AUTOSTART", value)
    starting.Starter().ready()
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert f"does not start: the environment variable DJANGO_LEADER_AUTOSTART is {value!r}; use 1, 0" in caplog.text
    assert [message.id for message in checks.run_checks() if value in message.msg] == ["django_leader.E011"]


def server_that_pytest_starts(**environment: str) -> str:
    code = (
        "import logging; logging.basicConfig()\n"
        "import waitress.runner as runner\n"
        "runner.run(['waitress-serve', 'testproject.wsgi:application'], lambda *args, **kwargs: None)\n"
        "from django_leader.startup.starter import starter; print(starter.decisions['default'].start)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTEST_VERSION": "9", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_a_server_that_pytest_starts_is_no_candidate_and_says_so() -> None:
    said = server_that_pytest_starts()
    assert said.startswith("never")
    assert "WARNING:django_leader:LEADER_ELECTIONS['default']: does not start: pytest has started this server" in said
    assert "DJANGO_LEADER_AUTOSTART=1" in said
    assert "WARNING" not in server_that_pytest_starts(DJANGO_LEADER_AUTOSTART="0")


@pytest.mark.parametrize(("option", "serves"), [("--noreload", True), ("--norel", True), ("--nothreading", False)])
def test_noreload_is_seen_also_where_it_is_shortened(
    monkeypatch: pytest.MonkeyPatch, option: str, serves: bool
) -> None:
    monkeypatch.delenv("RUN_MAIN", raising=False)
    management: dict[str, Any] = {"__name__": "django.core.management"}
    exec("def execute(self, inside): return inside()", management)
    seen = management["execute"](SimpleNamespace(argv=["manage.py", "runserver", option]), inspect_process)
    assert (seen.command, seen.serving) == ("runserver", serves)


def test_redis_away_changes_nothing_for_the_application(own_server: RedisServer) -> None:
    own_server.stop()
    code = (
        "import logging; logging.basicConfig()\n"
        "import os; os.environ['DJANGO_LEADER_AUTOSTART'] = '1'\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "application = get_wsgi_application()\n"
        "from django.test import RequestFactory\n"
        "from django_leader import elections, is_leader\n"
        "import time\n"
        "until = time.monotonic() + 20\n"
        "while not elections['default'].outage and time.monotonic() < until: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "started = []\n"
        "body = application(RequestFactory().get('/nowhere/').environ, lambda *a: started.append(a))\n"
        "print(started[0][0], is_leader())\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**clean, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "404 Not Found False\n", done.stderr
    assert done.stderr.count("django_leader:") == 1, "one line for the outage: " + done.stderr
    assert "Traceback" not in done.stderr
