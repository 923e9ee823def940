"""The page about jobs: its files in two processes, each slot once through a hand-over, and what the command says."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis

from django_leader.jobs import declared
from tests.docs.pages import GIVEN, block, blocks, page, rows
from tests.docs.site import Site
from tests.docs.terminals import Project, Terminal, commands, project
from tests.support.servers import RedisServer, eventually

PAGE = "howto/jobs"
RUNSERVER = "python manage.py runserver --noreload 8001"
RUNSERVER_2 = "python manage.py runserver --noreload 8002"
RUN = re.compile(r"^export the data up to (\S+) with the token (\d+)$")
SECOND = timedelta(seconds=1)
OF_REFERENCE = [one for one in blocks("reference/api") if "import Run, periodic" in one.text]
SNIPPETS = [one for one in blocks(PAGE) if not one.path] + OF_REFERENCE


@pytest.fixture
def site(tmp_path: Path, own_server: RedisServer) -> Iterator[Project]:
    with project(tmp_path, own_server.port) as made:
        made.begin(PAGE)
        text = block(PAGE, "clear_sessions() -> None").replace("every=300", "every=1")
        made.write("my_app/leader_jobs.py", f"{text}\nfrom . import exports  # noqa\n")
        made.write("my_app/exports.py", block(PAGE, "export(run: Run)").replace("every=3600, grace=600", "every=1"))
        yield made


def instance(leader: Terminal) -> str:
    """Its instance id, as its log has it."""
    [name] = re.findall(r"leader, with token \d+ \((\S+),", "\n".join(leader.said))
    return str(name)


def runs(*terminals: Terminal) -> list[tuple[datetime, int]]:
    """The slots that were run, with the tokens of their terms, in their order."""
    found = [RUN.match(line) for terminal in terminals for line in terminal.said]
    return sorted((datetime.fromisoformat(match[1]), int(match[2])) for match in found if match)


def skipped(server: RedisServer) -> list[dict[str, str]]:
    """The entries of the stream about slots that were not run."""
    with redis.Redis(port=server.port, db=1, decode_responses=True) as client:
        entries: Any = client.xrange("{mysite:leader:lock}:runs")
    return [values for _, values in entries if values["outcome"] != "ok" and values["name"].endswith("export")]


def instant(milliseconds: str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000).astimezone()


@pytest.mark.timeout(300)
def test_each_slot_is_run_once_through_a_hand_over(site: Project, own_server: RedisServer) -> None:
    site.run("python manage.py migrate -v0")
    first = site.start(RUNSERVER)
    eventually(lambda: len(runs(first)) > 2, "the leader runs the job")
    second = site.start(RUNSERVER_2)
    second.waits_for(" leads")
    first.end(signal.SIGTERM)
    eventually(lambda: len(runs(second)) > 2, "the next leader goes on")
    found = runs(first, second)
    slots = [slot for slot, _ in found]
    assert slots == sorted(set(slots)), "no slot twice"
    assert {token for _, token in runs(first)}.isdisjoint(token for _, token in runs(second))
    every = {slots[0] + number * SECOND for number in range(int((slots[-1] - slots[0]) / SECOND))}
    told = skipped(own_server)
    for slot in every.difference(slots):
        assert any(instant(one.get("since", one["slot"])) <= slot <= instant(one["slot"]) for one in told), (slot, told)
    assert any("and its end is ok" in line for line in second.said)

    [(ask, printed), (order, expected)] = [
        (ask, said) for ask, said in printed_commands().items() if "leader_jobs" in ask
    ]
    rows = eventually(lambda: (found := shown(site, ask, " --json")) and all_well(found) and found, "no run goes on")
    assert [row["by"] for row in json.loads(rows)] == [instance(second)] * 2
    table = shown(site, ask).splitlines()
    assert [table[0].split(), len(table)] == [printed[0].split(), 3]
    assert table[2].split()[:4] == printed[1].replace("300", "1").split()[:4]
    told_now = eventually(lambda: (said := shown(site, order)) and "ok" in said and said, "no slot is run just then")
    assert told_now.split()[:4] == expected[0].split()[:4]
    assert told_now.split()[4] == f"{instance(second)}:"
    second.end(signal.SIGKILL)
    eventually(lambda: shown(site, ask).count("overdue") == 2, "nobody leads")
    site.run(ask, status=1)
    own_server.stop()
    site.run(f"{ask} 2>&1", status=2)


def shown(site: Project, ask: str, option: str = "") -> str:
    """What the command prints, with either status: a run may go on, or a slow machine may miss a slot."""
    return site.run(f"{ask}{option} || test $? = 1")


def all_well(found: str) -> bool:
    return [(row["outcome"], row["overdue"]) for row in json.loads(found)] == [("ok", False)] * 2


def printed_commands() -> dict[str, list[str]]:
    return {ask: said for found in blocks(PAGE, "console") for ask, said in commands(found).items()}


def test_the_tests_of_the_page_pass(tmp_path: Path, some_server: RedisServer) -> None:
    assert "Ran 2 tests" in Site(tmp_path, some_server, PAGE).manage("test", "my_app")[1]


@pytest.mark.parametrize("found", SNIPPETS, ids=lambda one: f"{one.page}:{one.line}")
def test_a_snippet_makes_its_jobs(found: Any, tmp_path: Path, some_server: RedisServer) -> None:
    """That of the scheduler in each worker makes none."""
    if "django.tasks" in found.text:
        pytest.importorskip("django.tasks", reason="this Django has no tasks")
    if "apscheduler" in found.text:
        pytest.importorskip("apscheduler")
    site = Site(tmp_path, some_server)
    site.write("my_app/leader_jobs.py", GIVEN + found.text)
    number = len(json.loads(site.manage("leader_jobs", "--json")[0]))
    assert number == len(re.findall(r"^@?periodic\(", found.text, re.MULTILINE))


TRIGGERS = [row for row in rows(page(PAGE)) if row[0].startswith(('`"interval"', '`"cron"'))]


@pytest.mark.parametrize(("trigger", "schedule"), TRIGGERS, ids=lambda cell: cell)
def test_a_trigger_of_apscheduler_is_due_as_its_schedule(trigger: str, schedule: str) -> None:
    scheduler = pytest.importorskip("apscheduler.schedulers.background").BackgroundScheduler(timezone=timezone.utc)
    given = eval(f"arguments({trigger.strip('`')})", {"arguments": lambda kind, **fields: (kind, fields)})
    at = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
    job = scheduler.add_job(print, given[0], start_date=at, **given[1])
    slots = declared(
        "periodic", **eval(f"dict({schedule.strip('`')})"), **({"tz": "UTC"} if given[0] == "cron" else {})
    )
    before, slot = at - SECOND, at - SECOND
    for _ in range(3):
        before = job.trigger.get_next_fire_time(None if before < at else before, before + SECOND)
        slot = datetime.fromtimestamp(slots("job").schedule.next(int(slot.timestamp() * 1000)) / 1000, timezone.utc)
        assert before == slot


def test_the_exit_statuses_are_those_of_the_reference() -> None:
    own, reference = (re.findall(r"^\| (\d) \| (.*) \|$", text, re.MULTILINE) for text in (page(PAGE), commands_page()))
    assert [status for status, _ in own] == [status for status, _ in reference] == ["0", "1", "2"]


def commands_page() -> str:
    return page("reference/commands").partition("### Exit statuses of `leader_jobs`")[2].partition("\n###")[0]
