"""The recipes for schedulers of task queues: two processes of each command, of which one schedules."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import need
from tests.docs.pages import blocks
from tests.docs.terminals import Project, Terminal, commands, project
from tests.docs.test_howto_processes import instance, status
from tests.support.servers import GENEROUS, RedisServer

PAGE = "howto/schedulers"
LOGGED = """
LOGGING["loggers"]["apscheduler"] = LOGGING["loggers"]["rq"] = {"handlers": ["console"], "level": "INFO"}
"""
"""What shows that a scheduler has put a task into its queue."""


class Recipe(NamedTuple):
    command: str
    package: str
    settings: str
    tasks: str
    """Added to the tasks of the page: one that is due each second."""
    runs: str
    """The line of a run."""
    since: tuple[int, int] = (3, 10)
    """The version of Python that the package needs."""


RECIPES = [
    Recipe(
        "schedule_dramatiq",
        "dramatiq_crontab",
        'INSTALLED_APPS += ["dramatiq_crontab"]\n'
        "import dramatiq\nfrom dramatiq.brokers.stub import StubBroker\ndramatiq.set_broker(StubBroker())\n",
        "from dramatiq_crontab import interval\ninterval(seconds=1)(clear_sessions)\n",
        'Running job "clear_sessions',
        (3, 11),
    ),
    Recipe(
        "schedule_tasks",
        "crontask",
        'INSTALLED_APPS += ["crontask"]\n',
        "from apscheduler.triggers.interval import IntervalTrigger\nfrom crontask import cron\n"
        "from django.tasks import task\n\n@cron(IntervalTrigger(seconds=1))\n@task\ndef tidy():\n    pass\n",
        'Running job "tidy',
        (3, 12),
    ),
    Recipe(
        "schedule_rq",
        "django_rq",
        'INSTALLED_APPS += ["django_rq"]\nRQ_QUEUES = {"default": {"URL": "redis://127.0.0.1:6379/2"}}\n',
        'cron.register(call_command, "default", args=("check",), interval=1)\n',
        "Enqueued job call_command",
    ),
]


@pytest.fixture
def site(tmp_path: Path, own_server: RedisServer) -> Iterator[Project]:
    with project(tmp_path, own_server.port) as made:
        yield made


def ended(scheduler: Terminal) -> int | None:
    """End it by SIGTERM, and return its exit status.

    The handler of these schedulers raises an exception. If it comes while APScheduler submits a job, APScheduler logs
    it and goes on. So the signal is sent again.
    """
    for _ in range(3):
        with contextlib.suppress(subprocess.TimeoutExpired):
            scheduler.process.send_signal(signal.SIGTERM)
            return scheduler.process.wait(GENEROUS / 3)
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.package)
def test_one_scheduler_runs_and_the_next_one_waits(site: Project, own_server: RedisServer, recipe: Recipe) -> None:
    if sys.version_info < recipe.since:
        pytest.skip(f"{recipe.package} needs Python {recipe.since}")
    need(importlib.util.find_spec(recipe.package), recipe.package)
    printed = {command for block in blocks(PAGE, "console") for command in commands(block)}
    [run] = [command for command in printed if command.endswith(f" {recipe.command}")]
    site.begin(PAGE)
    site.add(recipe.settings + LOGGED)
    tasks = site.folder / "my_app" / ("cron_jobs.py" if recipe.package == "django_rq" else "tasks.py")
    shown = "" if recipe.package == "crontask" else tasks.read_text(encoding="utf-8")
    tasks.write_text(f"{shown}\n{recipe.tasks}", encoding="utf-8")
    first = site.start(run)
    first.waits_for(recipe.runs)
    second = site.start(run)
    election = f"command:{recipe.command}"
    second.waits_for(f"{instance(first, election)} leads")
    assert not second.has(recipe.runs)
    assert ended(first) == 0
    second.waits_for(recipe.runs)
    assert status(site, f"python manage.py leader_status {election}")["leader"] == instance(second, election)
    own_server.stop()
    assert second.process.wait(GENEROUS) == 1
