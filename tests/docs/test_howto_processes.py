"""The how-to pages whose matter is several processes: their files and commands, as printed."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

import django
import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.management.commands.leader_status import LEADERLESS, LED, UNKNOWN
from django_leader.protocol.machine import Reason
from tests.conftest import need
from tests.docs.pages import blocks
from tests.docs.terminals import Project, Terminal, commands, project
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually, free_port

RUNSERVER = "python manage.py runserver --noreload 8001"
RUNSERVER_2 = "python manage.py runserver --noreload 8002"


@pytest.fixture
def site(tmp_path: Path, own_server: RedisServer) -> Iterator[Project]:
    with project(tmp_path, own_server.port) as made:
        yield made


def printed(page: str) -> dict[str, list[str]]:
    """All commands of a page, each with the lines that it prints there."""
    return {
        command: said
        for block in blocks(page, "")
        if block.language == "console"
        for command, said in commands(block).items()
    }


def instance(leader: Terminal, election: str) -> str:
    """The instance id of a process, when it leads ``election``."""
    found = rf"LEADER_ELECTIONS\['{election}'\]: leader, with token \d+ \((\S+),"
    [name, *_] = eventually(lambda: re.findall(found, "\n".join(leader.said)), f"it leads {election}")
    return str(name)


def status(site: Project, command: str, *, exit_status: int = 0) -> dict[str, Any]:
    """The row of ``leader_status`` for the election that ``command`` names."""
    [row] = json.loads(site.run(f"{command} --json", status=exit_status))
    assert isinstance(row, dict)
    return row


BEAT = "howto/celery-beat"
OFTEN = 'CELERY_BEAT_SCHEDULE["refresh-rates"]["schedule"] = 1.0\n'


def copy(site: Project) -> Path:
    """The folder of the project on another host."""
    return Path(shutil.copytree(site.folder, site.folder.parent / "other-host"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheduler", ["PersistentScheduler", "DatabaseScheduler"])
def test_of_two_celery_beats_one_sends_each_task_once(site: Project, own_server: RedisServer, scheduler: str) -> None:
    need(importlib.util.find_spec("celery"), "celery")
    [beat] = [command for command in printed(BEAT) if scheduler in command]
    ask = "python manage.py leader_status beat"
    assert ask in printed(BEAT)
    site.begin(BEAT)
    site.add(OFTEN)
    if scheduler == "DatabaseScheduler":
        if django.VERSION >= (6, 1):
            pytest.skip("django-celery-beat needs a Django before 6.1")
        need(importlib.util.find_spec("django_celery_beat"), "django-celery-beat")
        site.add('INSTALLED_APPS += ["django_celery_beat"]\n')
        site.run("python manage.py migrate -v0")
    other = site.folder if scheduler == "DatabaseScheduler" else copy(site)
    broker = redis.Redis(port=own_server.port, db=2)

    def tasks() -> list[str]:
        found: Any = broker.lrange("celery", 0, -1)
        heads = [json.loads(text)["headers"] for text in found]
        return [head["id"] for head in heads if head["task"] == "my_app.tasks.refresh_rates"]

    first = site.start(beat)
    sends = "Celery beat sends the tasks of"
    first.waits_for(sends)
    second = site.start(beat, folder=other)
    second.waits_for(f"{instance(first, 'beat')} leads")
    row = status(site, ask)
    assert (row["leader"], row["candidates"]) == (instance(first, "beat"), 2)
    eventually(lambda: len(tasks()) > 1, "the leader sends")
    assert not second.has(sends)
    first.process.send_signal(signal.SIGTERM)
    second.waits_for(sends)
    assert first.process.wait(GENEROUS) == 0
    assert sends in (ROOT / "docs" / f"{BEAT}.md").read_text(encoding="utf-8")
    number = len(tasks())
    eventually(lambda: len(tasks()) > number, "the next one sends")
    again = sum(line.count("is sent again with the same id") for line in second.said)
    assert len(tasks()) - len(set(tasks())) <= again


@pytest.mark.timeout(300)
def test_one_celery_beat_runs_and_the_next_one_waits(site: Project, own_server: RedisServer) -> None:
    need(importlib.util.find_spec("celery"), "celery")
    page = BEAT
    beat, ask = "python manage.py beat", "python manage.py leader_status command:beat"
    assert {beat, ask} <= printed(page).keys()
    site.begin(page)
    other = copy(site)
    first = site.start(beat)
    first.waits_for("beat: Starting")
    second = site.start(beat, folder=other)
    leader = instance(first, "command:beat")
    second.waits_for(f"{leader} leads")
    assert status(site, ask)["leader"] == leader
    assert not second.has("beat: Starting")
    first.process.send_signal(signal.SIGTERM)
    second.waits_for("beat: Starting")
    assert status(site, ask)["leader"] == instance(second, "command:beat")
    assert first.process.wait(GENEROUS) == 0
    assert all(list(host.glob("celerybeat-schedule*")) for host in (site.folder, other)), "each host has its own file"
    own_server.stop()
    third = site.start(beat)
    assert second.process.wait(GENEROUS) == 1
    assert second.has("CommandError: Interrupted: LEADER_ELECTIONS['command:beat']: the lease could not be kept")
    third.waits_for("Redis is unreachable")
    assert third.process.poll() is None, "a standby waits"
    assert not third.has("beat: Starting")
    own_server.start()
    third.waits_for("beat: Starting")


HUEY = """
INSTALLED_APPS += ["huey.contrib.djhuey"]
HUEY = {"name": "mysite", "immediate": False, "connection": {"url": "redis://127.0.0.1:6379/2"}}
"""
"""What the page takes for granted: Huey's integration with Django, at the server of the test."""
SPED_UP = """

import django_leader.huey
from huey.consumer import Scheduler

django_leader.huey.MINUTE = 1000
Scheduler.periodic_task_seconds = 1
"""
"""Added to the tasks: a minute takes a second."""


def enqueued(*consumers: Terminal) -> int:
    """How often these consumers have put the task into the queue."""
    return sum("Enqueueing periodic task" in line for one in consumers for line in one.said)


@pytest.fixture
def consumers(site: Project) -> str:
    """The command of the page, in a project with its tasks, where a minute takes a second."""
    need(importlib.util.find_spec("huey"), "huey")
    run, *_ = printed("howto/huey")
    site.begin("howto/huey")
    site.add(HUEY)
    tasks = (site.folder / "my_app" / "tasks.py").read_text(encoding="utf-8")
    site.write("my_app/tasks.py", tasks.replace('crontab(minute="0")', 'crontab(minute="*")') + SPED_UP)
    return run


@pytest.mark.timeout(300)
def test_huey_enqueues_each_minute_at_most_once_across_a_kill(
    site: Project, own_server: RedisServer, consumers: str
) -> None:
    _, ask, _ = printed("howto/huey")
    web, first, second = (site.start(command) for command in (RUNSERVER, consumers, consumers))
    web.waits_for("['default']: leader, with token")
    [leader] = eventually(lambda: [one for one in (first, second) if one.has("leader, with token")], "one leads")
    [follower] = {first, second} - {leader}
    eventually(lambda: status(site, ask)["candidates"] == 2, "both consumers are candidates")
    assert status(site, ask)["leader"] == instance(leader, "command:run_huey")
    eventually(lambda: enqueued(leader) >= 3, "the leader enqueues")
    assert enqueued(follower) == 0
    leader.process.kill()
    eventually(lambda: enqueued(follower) >= 3, "the next one does")
    assert follower.end() == 0
    assert follower.has("lost leadership: resigned")
    client: Any = redis.Redis(port=own_server.port, db=1, decode_responses=True)
    assert status(site, ask, exit_status=1)["leader"] is None
    [stream] = client.keys("*command:run_huey*:runs")
    run = [entry["slot"] for _, entry in client.xrange(stream) if entry["outcome"] == "ok"]
    assert len(run) == len(set(run))
    assert len(run) - enqueued(leader, follower) in (0, 1), "one may be lost with the killed leader"


WAITS = """

import pathlib, time
from huey.contrib.djhuey import task

@task()
def wait() -> None:
    while not pathlib.Path("go").exists():
        time.sleep(0.1)
"""
"""Added to the tasks: one that lasts as long as the test says."""


@pytest.mark.timeout(300)
def test_a_huey_consumer_hands_over_before_its_tasks_end(site: Project, consumers: str) -> None:
    tasks = site.folder / "my_app" / "tasks.py"
    tasks.write_text(tasks.read_text(encoding="utf-8") + WAITS, encoding="utf-8")
    first = site.start(consumers)
    first.waits_for("leader, with token")
    site.run("python manage.py shell --no-imports --command 'from my_app.tasks import wait; wait()'")
    first.waits_for("Executing my_app.tasks.wait")
    second = site.start(consumers)
    second.waits_for(f"{instance(first, 'command:run_huey')} leads")
    first.process.send_signal(signal.SIGINT)
    eventually(lambda: enqueued(second), "the next one schedules")
    assert first.process.poll() is None, "it works on its task"
    site.write("go", "")
    assert first.process.wait(GENEROUS) == 0


def test_huey_with_processes_enqueues_too(site: Project, consumers: str) -> None:
    consumer = site.start(f"{consumers} --worker-type process")
    eventually(lambda: enqueued(consumer) >= 2, "its scheduler, which is a child, leads")
    assert consumer.end() == 0


PATCHED = """from gevent import monkey

monkey.patch_all()

"""
"""Before everything else in manage.py, as Huey wants it for greenlets."""


def test_huey_with_greenlets_enqueues_too(site: Project, consumers: str) -> None:
    need(importlib.util.find_spec("gevent"), "gevent")
    manage = (site.folder / "manage.py").read_text(encoding="utf-8")
    site.write("manage.py", manage.replace("import os\n", PATCHED + "import os\n", 1))
    consumer = site.start(f"{consumers} --worker-type greenlet")
    eventually(lambda: enqueued(consumer) >= 2, "its scheduler, which is a greenlet, leads")
    assert not consumer.has("monkey-patch has not been applied")
    assert consumer.end() == 0


READS = """python manage.py shell --command '
import my_app.tasks
from huey.contrib.djhuey import HUEY
print("due:", HUEY.read_periodic(None))'"""


def test_a_shell_that_reads_the_tasks_of_huey_is_no_candidate(
    site: Project, own_server: RedisServer, consumers: str
) -> None:
    shell = site.start(READS)
    assert shell.process.wait(GENEROUS) == 0
    assert shell.has("the scheduler of a Huey consumer has not called leading()")
    assert shell.has("due: []")
    client: Any = redis.Redis(port=own_server.port, db=1, decode_responses=True)
    assert client.keys("*command:run_huey*") == []


def test_the_tests_of_huey_pass(site: Project) -> None:
    need(importlib.util.find_spec("huey"), "huey")
    site.begin("howto/huey")
    site.add(HUEY)
    site.run("python manage.py test my_app")


def test_local_leads_at_once_without_redis(tmp_path: Path) -> None:
    page = "howto/without-redis"
    [(run, lines)] = printed(page).items()
    with project(tmp_path, free_port()) as site:
        site.begin(page)
        web = site.start(f"{run} --noreload 8001")
        for line in lines:
            web.shows(line)
        ask = "python manage.py leader_status"
        assert "LOCAL" in status(site, ask, exit_status=2)["error"]
        assert "(django_leader.E018)" in site.run("python manage.py check --deploy 2>&1", status=1)
        other = site.start(f"{run} --noreload 8002")
        other.waits_for("leader, with token")
        assert web.process.poll() is None, "both lead"
        assert web.end() in (0, -signal.SIGINT)


LOGS = "howto/alerts"
FAILING = """
from django.apps import AppConfig
from django_leader import became_leader

def fail(**kwargs):
    raise ZeroDivisionError

class App(AppConfig):
    name = "my_app"

    def ready(self):
        became_leader.connect(fail)
"""


def records(terminal: Terminal) -> list[dict[str, Any]]:
    """What the package has logged. Each line is JSON; the lines of the server are not."""
    assert not any("LEADER_ELECTIONS" in line and not line.startswith("{") for line in terminal.said)
    return [json.loads(line) for line in terminal.said if line.startswith("{")]


def record(terminal: Terminal, text: str) -> dict[str, Any]:
    """The first one whose message has ``text``."""
    found = eventually(lambda: [one for one in records(terminal) if text in one["message"]], f"{text} in the log")
    return dict(found[0])


def test_each_line_of_the_log_is_json_with_the_attributes(site: Project, own_server: RedisServer) -> None:
    site.begin(LOGS)
    first = site.start(RUNSERVER)
    leads = record(first, "leader, with token")
    assert isinstance(leads["token"], int)
    second = site.start(RUNSERVER_2)
    follows = record(second, " leads")
    assert (follows["leader"], follows["previous"]) == (leads["instance"], "")
    assert first.end() == 0
    lost = record(first, "lost leadership:")
    assert (lost["reason"], lost["token"]) == ("resigned", leads["token"])
    assert datetime.fromisoformat(lost["at"]) > datetime.fromisoformat(leads["at"])
    record(second, "leader, with token")
    site.write("my_app/apps.py", FAILING)
    third = site.start(RUNSERVER)
    record(third, " leads")
    second.end(signal.SIGKILL)
    assert record(third, "lost leadership:")["reason"] == "callback-failed"
    assert "ZeroDivisionError" in next(one for one in records(third) if one["level"] == "ERROR")["traceback"]
    own_server.stop()
    assert record(third, "Redis is unreachable")["election"] == "default"
    found = [one for terminal in (first, second, third) for one in records(terminal)]
    fields = named_fields()
    assert set.union(*map(set, found)) == fields | {"level", "logger", "message", "traceback"}
    assert all({"election", "instance"} <= set(one) for one in found if fields & set(one))


LEADS = """
import os, time
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django_leader import elections
elections["default"].start()
time.sleep(3600)
"""


@pytest.mark.parametrize("handler", ["logging.StreamHandler", "my_app.background.BackgroundHandler"])
def test_with_the_handler_of_the_page_a_full_pipe_costs_no_term(
    site: Project, own_server: RedisServer, handler: str
) -> None:
    site.begin(LOGS)
    site.add(f'LOGGING["handlers"]["console"]["class"] = "{handler}"\n')
    site.add('LEADER_ELECTIONS["default"] |= {"LOCK_TTL": 3, "HEARTBEAT_INTERVAL": 0.5, "QUARANTINE": 0}\n')
    site.write("leads.py", LEADS)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    leader = site.start("python -W ignore leads.py", stderr=writer)  # a warning would block it, too
    config = Config(redis_key_name="mysite:leader:lock", redis_info_key_name="mysite:leader:info")
    asked = LeaderElection(redis.Redis(port=own_server.port, db=1), config)
    [elected] = eventually(asked.history, "it leads")
    until = time.monotonic() + 6
    eventually(lambda: time.monotonic() > until or not asked.get_leader_id(), every=0.1)
    leads_on = asked.get_leader_id() == elected.instance_id and len(asked.history()) == 1
    assert leads_on is (handler != "logging.StreamHandler"), asked.history()
    leader.process.kill()
    for descriptor in (reader, writer):
        os.close(descriptor)


def named_fields() -> set[str]:
    """The attributes of records that the page names."""
    text = (ROOT / "docs" / f"{LOGS}.md").read_text(encoding="utf-8")
    [paragraph] = re.findall(r"^Records about terms.*?\n\n", text, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`(\w+)`", paragraph))


def test_leader_status_prints_the_json_and_ends_as_printed(site: Project, own_server: RedisServer) -> None:
    [(ask, lines)] = printed(LOGS).items()
    command = ask.removesuffix(" --json")
    site.begin(LOGS)
    assert status(site, command, exit_status=1)["leader"] is None
    web = site.start(RUNSERVER)
    record(web, "leader, with token")
    [shown], [row] = json.loads("\n".join(lines)), json.loads(site.run(ask))
    assert {name: type(value) for name, value in shown.items()} == {name: type(value) for name, value in row.items()}
    assert list(shown) == list(row)
    site.run(f"{command} nosuch 2>&1", status=2)
    own_server.stop()
    assert status(site, command, exit_status=2)["error"]


def rows(title: str) -> list[list[str]]:
    """The cells of the table of the page whose header begins with ``title``."""
    text = (ROOT / "docs" / f"{LOGS}.md").read_text(encoding="utf-8")
    [table] = re.findall(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@cache
def literals() -> list[str]:
    """All texts in the code of the package but its docstrings."""
    found = []
    for path in (ROOT / "django_leader").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "%s" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                found.append(node.value)
    return found


@pytest.mark.parametrize("cell", [cells[0] for cells in rows("the line contains")])
def test_the_package_has_the_line_to_be_alerted_on(cell: str) -> None:
    phrases = [re.escape(phrase) for phrase in re.findall("`([^`]+)`", cell)]
    assert phrases
    together = [".*".join(phrases)] if " … " in cell else phrases
    for pattern in together:
        if pattern != re.escape(refusal_of_threads()):  # Python's own words
            assert any(re.search(pattern, text, re.DOTALL) for text in literals()), pattern


def refusal_of_threads() -> str:
    """What Python says when the system refuses a thread, here because of its size."""
    before = threading.stack_size(2**46)
    try:
        threading.Thread(target=print).start()
    except RuntimeError as error:
        return str(error)
    finally:
        threading.stack_size(before)
    raise AssertionError("the thread has started")


def test_the_reasons_of_a_lost_term_are_all_there() -> None:
    assert [cells[0].strip("`") for cells in rows("reason")] == list(get_args(Reason))


def test_the_exit_statuses_are_those_of_the_command() -> None:
    assert [int(cells[0]) for cells in rows("exit status")] == [LED, LEADERLESS, UNKNOWN]
