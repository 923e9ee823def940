"""``@periodic``, the modules that have jobs, their checks, and ``manage.py leader_jobs``."""

from __future__ import annotations

import functools
import io
import json
import logging
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.apps import AppConfig, apps
from django.core.checks import CheckMessage
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from pytest_django import Settings

from django_leader import Run, elections, leader_required, once_per_slot, periodic
from django_leader.job_checks import check_jobs
from django_leader.protocol.slots import slot_keys
from django_leader.registry import jobs
from django_leader.testing import real_elections
from tests.support.servers import GENEROUS, RedisServer, eventually


@pytest.fixture(autouse=True)
def no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without jobs, and no module is searched for them."""
    for name, value in {"_known": {}, "duplicates": [], "broken": {}, "_specs": {}, "_discoverer": 1}.items():
        monkeypatch.setattr(jobs, name, value)
    monkeypatch.setattr(jobs, "_discovered", threading.Event())
    jobs._discovered.set()


def work() -> None:
    """A job."""


def registered() -> list[tuple[str, str, str]]:
    """Of each job the election, the name and the schedule."""
    return [(job.election, job.spec.job.name, job.spec.job.schedule.text) for job in jobs.all()]


def test_a_function_is_registered_and_stays_as_it_is() -> None:
    assert periodic(every=300, offset=timedelta(seconds=5))(work) is work
    periodic(cron="0 3 * * *", tz="Europe/Berlin", name="nightly", election="reports")(work)
    assert registered() == [
        ("default", "tests.django.test_jobs.work", "every 300 s, 5 s later"),
        ("reports", "nightly", "cron 0 3 * * *, Europe/Berlin"),
    ]
    assert [spec.job.name for spec in jobs.of("reports")] == ["nightly"]
    assert jobs.of("other") == ()


def test_the_time_zone_of_a_cron_expression_is_the_projects(settings: Settings) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    periodic(cron="*/5 * * * *")(work)
    assert registered()[0][2] == "cron */5 * * * *, Asia/Tokyo"


def test_durations_are_seconds_or_timedelta() -> None:
    periodic(60, grace=timedelta(minutes=1), max_run=5, jitter=timedelta(seconds=2), in_doubt="rerun")(work)
    [spec] = jobs.of("default")
    assert (spec.job.grace, spec.job.max_run, spec.jitter, spec.job.in_doubt) == (60.0, 5.0, 2.0, "rerun")
    periodic(60, name="plain")(work)
    spec = jobs.of("default")[1]
    assert (spec.job.grace, spec.job.max_run, spec.jitter, spec.job.in_doubt) == (None, float("inf"), 0.0, "skip")


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({}, TypeError, "either every, a number of seconds, or cron"),
    "both": ({"every": 5, "cron": "* * * * *"}, TypeError, "either every"),
    "zero": ({"every": 0}, ValueError, "periodic: every is 0; give a number of seconds from 1 to"),
    "negative": ({"every": -5}, ValueError, "every is -5"),
    "NaN": ({"every": float("nan")}, ValueError, "every is nan; give a finite number"),
    "too long": ({"every": timedelta(days=400)}, ValueError, "every is datetime.timedelta"),
    "text": ({"every": "5"}, TypeError, "every is '5'; give seconds as a number, or a timedelta"),
    "True": ({"every": True}, TypeError, "every is True"),
    "six fields": ({"cron": "0 0 * * * *"}, ValueError, "cron is '0 0 \\* \\* \\* \\*'; give five fields"),
    "no such day": ({"cron": "0 0 30 2 *"}, ValueError, "cron is '0 0 30 2 \\*', which cannot be read"),
    "no such zone": (
        {"cron": "0 0 * * *", "tz": "Mars/Olympus"},
        ValueError,
        "tz is 'Mars/Olympus', which this machine",
    ),
    "no grace": ({"every": 5, "grace": 0}, ValueError, "grace is 0; give more than 0"),
    "no duration": ({"every": 5, "max_run": "long"}, TypeError, "max_run is 'long'; give seconds"),
    "negative jitter": ({"every": 5, "jitter": -1}, ValueError, "jitter is -1"),
    "policy": ({"every": 5, "in_doubt": "retry"}, ValueError, "in_doubt is 'retry'; give 'skip' or 'rerun'"),
    "election": ({"every": 5, "election": None}, TypeError, "election is None; give the alias"),
    "name": ({"every": 5, "name": "x" * 201}, ValueError, "give a str of 1 to 200 printable characters"),
    "surrogate": ({"every": 5, "name": "z\ud800"}, ValueError, "printable characters"),
    "offset of cron": ({"cron": "0 3 * * *", "offset": 5}, TypeError, "offset belongs to every"),
    "zone of every": ({"every": 5, "tz": "UTC"}, TypeError, "tz belongs to cron"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_a_job_is_refused_where_it_stands(wrong: str) -> None:
    options, error, text = WRONG[wrong]
    declare: Any = periodic
    with pytest.raises(error, match=text):
        declare(**options)(work)
    assert jobs.all() == []


def generates() -> Iterator[int]:
    yield 1


class Shop:
    def tidy(self) -> None: ...


def test_a_method_is_no_job() -> None:
    with pytest.raises(TypeError, match="it is a method"):
        periodic(every=5)(Shop.tidy)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ValueError, match="a lambda has no name of its own"):
        periodic(every=5)(lambda: None)


@pytest.mark.parametrize(
    "target", [generates, Path, functools.partial(work), lambda a, b: None, staticmethod(work), 5, lambda *, run: None]
)
def test_what_cannot_be_called_as_a_job_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match=r"periodic: .* cannot be"):
        periodic(every=5)(target)


def test_a_function_is_called_with_the_run_if_it_has_a_parameter() -> None:
    called: list[Any] = []
    run: Any = object()
    functions: dict[str, Callable[..., Any]] = {
        "none": lambda: called.append("none"),
        "one": lambda run: called.append(run),
        "default": lambda count=3: called.append(count),
        "run": lambda run=None: called.append(run),
        "any": lambda *args, **kwargs: called.append(args),
    }
    for name, function in functions.items():
        periodic(every=5, name=name)(function)
    for spec in jobs.of("default"):
        spec.call(run)
    assert called == ["none", run, 3, run, ()]


class Task:
    """As ``django.tasks`` makes one of a function."""

    def __init__(self) -> None:
        self.func, self.enqueued = work, 0

    def enqueue(self) -> None:
        self.enqueued += 1


def test_a_task_is_enqueued() -> None:
    task = Task()
    assert periodic(every=5)(task) is task
    [spec] = jobs.of("default")
    run: Any = None
    assert (spec.job.name, spec.call(run), task.enqueued) == ("tests.django.test_jobs.work", None, 1)


def test_a_task_of_django_is_enqueued(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = pytest.importorskip("django.tasks", reason="this Django has no tasks")
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    function, task = work, tasks.task(work)
    monkeypatch.setattr(sys.modules[__name__], "work", task)  # as @task does
    periodic(every=5)(task)
    [spec] = jobs.of("default")
    run: Any = None
    spec.call(run)
    [result] = tasks.default_task_backend.results
    assert (spec.job.name, result.task.func) == ("tests.django.test_jobs.work", function)


def test_of_two_jobs_of_one_name_the_first_runs(caplog: pytest.LogCaptureFixture) -> None:
    periodic(every=5, name="twice")(work)
    periodic(every=7, name="twice")(lambda: None)
    assert registered() == [("default", "twice", "every 5 s")]
    assert "LEADER_ELECTIONS['default']: two jobs have the name 'twice'" in caplog.text
    [message] = check_jobs()
    assert (message.id, message.is_serious()) == ("django_leader.E021", True)


def test_a_module_that_is_loaded_again_replaces_its_jobs() -> None:
    text = "from django_leader import periodic\n@periodic(every={})\ndef tidy(): pass\n"
    for period in (5, 7):
        exec(text.format(period), {"__name__": "a_module"})
    assert registered() == [("default", "a_module.tidy", "every 7 s")]


def test_a_function_is_no_two_jobs_of_one_name() -> None:
    """Two schedules, one above the other: the second would silently take the place of the first."""
    periodic(cron="0 3 * * *")(work)
    with pytest.raises(ValueError, match=r"tests\.django\.test_jobs\.work has a job of the name .* already"):
        periodic(cron="0 15 * * *")(work)
    periodic(cron="0 15 * * *", name="afternoon")(work)

    def make() -> Callable[[], None]:
        return lambda: None

    periodic(every=5, name="tenant")(make())
    with pytest.raises(ValueError, match="has a job of the name 'tenant' already"):
        periodic(every=5, name="tenant")(make())


def test_two_functions_of_one_name_are_two_jobs(caplog: pytest.LogCaptureFixture) -> None:
    for lines in ("", "\n\n"):
        exec(f"{lines}def tidy(): pass\n", namespace := {"__name__": "a_module"})
        periodic(every=5)(namespace["tidy"])
    assert [message.id for message in check_jobs()] == ["django_leader.E021"]


def test_the_search_holds_no_lock_while_it_imports(an_app: Callable[[str], None]) -> None:
    """A thread that imports the same module may register a job meanwhile."""
    an_app("import threading\nfrom tests.django import test_jobs\ntest_jobs.elsewhere()\n")
    jobs.discover()
    assert [job.spec.job.name for job in jobs.all()] == ["elsewhere"]
    assert not jobs.broken


def elsewhere() -> None:
    thread = threading.Thread(target=lambda: periodic(every=5, name="elsewhere")(work), daemon=True)
    thread.start()
    thread.join(GENEROUS)
    assert not thread.is_alive()


def test_a_job_that_comes_after_the_search_is_logged(
    an_app: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    an_app("from django_leader import periodic\n@periodic(every=60)\ndef tidy(): pass\n")
    jobs.discover()
    assert caplog.text == ""
    periodic(every=5, election="reports", name="late")(work)
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(
        "LEADER_ELECTIONS['reports']: the job 'late' of tests.django.test_jobs.work was registered late: "
    )
    assert line.endswith("Import that module in the module leader_jobs of an app")
    once_per_slot(every=5, name="called")(work)
    assert len(caplog.records) == 1, "that one is called by the application"


def test_apps_that_are_not_ready_are_waited_for(an_app: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    an_app("from django_leader import periodic\n@periodic(every=60)\ndef tidy(): pass\n")
    ready = threading.Event()
    monkeypatch.setattr(apps, "ready", False)
    monkeypatch.setattr(apps, "ready_event", ready)
    jobs.discover()
    assert jobs.of("default") == (), "in the main thread, which makes them ready"
    thread = threading.Thread(target=jobs.discover)
    thread.start()
    monkeypatch.setattr(apps, "ready", True)
    ready.set()
    thread.join(GENEROUS)
    assert [spec.job.name for spec in jobs.of("default")] == ["app_with_jobs.leader_jobs.tidy"]


@pytest.fixture
def an_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes an app whose module has this text."""

    def make(text: str) -> None:
        package = tmp_path / "app_with_jobs"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "leader_jobs.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        module = types.ModuleType("app_with_jobs")
        module.__path__ = [str(package)]
        monkeypatch.setitem(sys.modules, "app_with_jobs", module)
        monkeypatch.delitem(sys.modules, "app_with_jobs.leader_jobs", raising=False)
        config = AppConfig("app_with_jobs", module)
        monkeypatch.setattr(apps, "get_app_configs", lambda: [config])
        monkeypatch.setattr(jobs, "_discoverer", None)
        jobs._discovered.clear()

    return make


def test_the_module_of_each_app_is_imported_once(an_app: Callable[[str], None]) -> None:
    an_app("from django_leader import periodic\n@periodic(every=60)\ndef tidy(): pass\n")
    jobs.discover()
    assert [spec.job.name for spec in jobs.of("default")] == ["app_with_jobs.leader_jobs.tidy"]
    assert len(jobs.of("default")) == 1


def test_a_module_that_cannot_be_imported_ends_nothing(
    an_app: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    an_app("from django_leader import periodic\nperiodic(every=0)\n")
    jobs.discover()
    assert jobs.of("default") == ()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the jobs of the app 'app_with_jobs' do not run" in record.getMessage()
    assert record.exc_info
    [message] = check_jobs()
    assert message.id == "django_leader.E020"
    assert "(ValueError: periodic: every is 0; give a number of seconds" in message.msg


def test_jobs_in_the_folder_of_the_settings_are_told_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "site_with_jobs").mkdir()
    (tmp_path / "site_with_jobs" / "leader_jobs.py").touch()
    (tmp_path / "flat_settings.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    settings.SETTINGS_MODULE, settings.ROOT_URLCONF = "flat_settings", "site_with_jobs.urls"
    [message] = check_jobs()
    assert (message.id, "site_with_jobs.leader_jobs do not run" in message.msg) == ("django_leader.W021", True)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "site_with_jobs"]
    assert check_jobs() == []


def checked() -> list[CheckMessage]:
    return check_jobs()


def test_an_election_that_is_not_declared_is_an_error(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {}}
    periodic(every=60, election="reports")(work)
    [message] = checked()
    assert (message.id, "has no 'reports'" in message.msg) == ("django_leader.E022", True)


@pytest.mark.parametrize(("every", "expected"), [(1.5, ["django_leader.W020"]), (2, [])])
def test_a_period_shorter_than_the_retry_interval_is_a_warning(
    settings: Settings, every: float, expected: list[str]
) -> None:
    settings.LEADER_ELECTIONS = {"default": {"RETRY_INTERVAL": 2}}
    periodic(every=every)(work)
    assert [message.id for message in checked()] == expected


def run_command(*arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("leader_jobs", *arguments, stdout=out, stderr=err)
    except SystemExit as error:
        return int(error.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_the_leader_runs_jobs_and_the_command_shows_them(project: Settings, some_server: RedisServer) -> None:
    some_server.client().flushall()
    ran = threading.Event()
    fail = [False]

    def job(run: Run) -> None:
        ran.set()
        if fail[0]:
            raise ValueError("a job")

    periodic(every=1, name="job")(job)
    periodic(cron="0 0 1 1 *", name="yearly")(work)
    status, out, _ = run_command()
    assert (status, out.splitlines()[1].split()[-4:]) == (0, ["-", "-", "-", "-"])
    elections["default"].start()
    assert ran.wait(GENEROUS)
    eventually(lambda: json.loads(run_command("--json")[1])[0]["outcome"] == "ok")
    status, out, _ = run_command("default", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["job"] for row in rows] == ["job", "yearly"]
    assert rows[0]["by"] == elections["default"].instance_id
    assert rows[0]["token"] == elections["default"].fencing_token
    assert rows[0]["next"] > rows[0]["last"]
    assert rows[0]["decision"] == "run"
    assert rows[1]["last"] is None
    fail[0] = True
    eventually(lambda: run_command()[0] == 1, "the last run has failed")
    shown = run_command()[1].splitlines()
    assert shown[0].split()[:4] == ["JOB", "ELECTION", "SCHEDULE", "NEXT"]
    elections.reset()
    assert some_server.client().exists(*slot_keys(elections["default"].config.keys)) == 2


class WebCommand(BaseCommand):
    """A command that competes with the web processes for their election."""

    @leader_required(election="default")
    def handle(self, *args: Any, **options: Any) -> None:
        eventually(lambda: WebCommand.ran)

    ran: ClassVar[list[Run]] = []


def test_a_command_that_leads_an_election_runs_its_jobs(project: Settings, some_server: RedisServer) -> None:
    """No other process does while it leads."""
    some_server.client().flushall()

    def job(run: Run) -> None:
        WebCommand.ran.append(run)

    periodic(every=1, name="job")(job)
    with real_elections():
        call_command(WebCommand())
    assert WebCommand.ran[0].term.label == "LEADER_ELECTIONS['default']"


DAY = 86400


@pytest.mark.parametrize(
    ("days", "why", "expected"),
    [
        (2, "run", (0, ["ok", "0.5", "s", "web-1"])),
        (2, "overlapped", (0, ["overlapped", "-", "-"])),
        (2, "missed", (1, ["missed", "-", "-"])),
        (9, "run", (1, ["ok", "0.5", "s", "web-1"])),
    ],
)
def test_the_command_tells_a_slot_that_was_not_run(
    project: Settings, some_server: RedisServer, days: int, why: str, expected: tuple[int, list[str]]
) -> None:
    """One that nobody has decided is overdue: without a leader nobody is there to record that it was missed."""
    client, now = some_server.client(), int(time.time())
    client.flushall()
    periodic(every=timedelta(days=7), offset=(now - 2 * DAY) % (7 * DAY), name="job")(work)
    slot = (now - days * DAY) * 1000
    record = f"1 last={slot} doubt=0 slot={slot if why == 'run' else 1000} token=7 started=1 attempt=1 took=500 "
    record += f"why={why} memory=m claim=c policy=skip outcome=ok process=web-1:0123456789abcdef"
    client.hset(slot_keys(elections["default"].config.keys)[0], "job:job", record)
    status, out, _ = run_command()
    cells = out.splitlines()[1].split()
    assert (status, cells[-len(expected[1]) :]) == expected
    [row] = json.loads(run_command("--json")[1])
    assert (row["outcome"], row["decision"], row["took"]) == ("ok", why, 0.5)
    assert row["overdue"] is ("overdue" in cells) is (days == 9)


def test_without_jobs_the_command_says_so(project: Settings) -> None:
    assert run_command() == (
        0,
        "No jobs are registered. They are searched in the module leader_jobs of each app in INSTALLED_APPS.\n",
        "",
    )


def test_the_command_cannot_say_anything_of_an_unknown_election(project: Settings) -> None:
    with pytest.raises(CommandError, match="there is no such election") as raised:
        call_command("leader_jobs", "other")
    assert raised.value.returncode == 2


def test_the_command_says_that_redis_is_unreachable(settings: Settings) -> None:
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
    settings.LEADER_ELECTIONS = {"default": {}}
    periodic(every=60)(work)
    status, _, err = run_command()
    assert (status, "127.0.0.1:1" in err) == (2, True)


def test_a_local_election_runs_jobs_too(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    runs: list[Run] = []
    periodic(every=1, name="job")(lambda run: runs.append(run))
    elections["default"].start()
    eventually(lambda: len(runs) >= 2)
    elections.reset()
    assert runs[0].scheduled_for < runs[1].scheduled_for
    assert runs[1].previous
    assert runs[1].previous.scheduled_for == runs[0].scheduled_for


def test_the_command_shows_a_forged_record(project: Settings, some_server: RedisServer) -> None:
    """Its slot is later than any that the schedule can name."""
    periodic(cron="* * * * *", name="job")(work)
    key = slot_keys(elections["default"].config.keys)[0]
    words = (
        "last=900000000000000 doubt=0 slot=0 token=0 started=0 attempt=0 took=0 why=run memory=x claim=- policy=skip"
    )
    some_server.client().hset(key, "job:job", f"1 {words} outcome=none process=")
    status, out, _ = run_command("--json")
    some_server.client().delete(key)
    [row] = json.loads(out)
    assert (status, row["next"], row["decided"][:4]) == (0, None, "9892")
