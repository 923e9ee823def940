"""``manage.py leader_jobs --run``: what it asks, says and ends with."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils.translation import override
from pytest_django import Settings

from django_leader import Run, once_per_slot, periodic
from django_leader.exceptions import RedisUnavailable
from django_leader.handler import elections
from django_leader.management import run_now
from django_leader.protocol.orders import Look, Order
from django_leader.registry import jobs
from django_leader.runtime.orders import Carried
from tests.support.servers import GENEROUS, RedisServer


@pytest.fixture(autouse=True)
def own_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the jobs of the test are registered."""
    monkeypatch.setattr(jobs, "_known", {})
    monkeypatch.setattr(jobs, "_specs", {})
    monkeypatch.setattr(jobs, "broken", {})
    monkeypatch.setattr(jobs, "duplicates", [])
    monkeypatch.setattr(jobs, "_discoverer", 0)
    jobs._discovered.set()
    yield
    elections.reset()


def command(*arguments: str) -> tuple[int, str]:
    """Exit status and output."""
    out = io.StringIO()
    try:
        call_command("leader_jobs", *arguments, stdout=out)
    except SystemExit as error:
        return int(error.code or 0), out.getvalue()
    return 0, out.getvalue()


def refused(*arguments: str) -> str:
    """What the command says when it asks nothing."""
    with pytest.raises(CommandError) as raised:
        call_command("leader_jobs", *arguments, stdout=io.StringIO())
    assert raised.value.returncode == 2
    return str(raised.value)


def work() -> None:
    """A job."""


async def acting(run: Run) -> None:
    assert run.requested_by == run_now.asker()


def failing() -> None:
    raise ValueError("why")


def test_j11_the_command_has_the_leader_run_a_job(project: Settings, some_server: RedisServer) -> None:
    some_server.client().flushall()
    project.LEADER_ELECTIONS["default"]["LOCK_TTL"] = 60
    for function in (work, acting, failing):
        periodic(every=30 * 86400, name=function.__name__)(function)
    assert command("--run", "work") == (
        1,
        "work was not run: no process leads in the election default.\n",
    )
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    status, said = command("--run", "work")
    assert (status, said.partition(": ")[0]) == (0, f"work has run in {elections['default'].instance_id}")
    assert command("--run", "acting", "default", "--timeout", str(GENEROUS))[0] == 0
    status, said = command("--run", "failing", "--json")
    found = json.loads(said)
    assert status == 1
    assert (found["job"], found["election"], found["outcome"]) == ("failing", "default", "failed")
    assert (found["requested_by"], found["by"]) == (run_now.asker(), elections["default"].instance_id)
    assert (found["error"], len(found["id"]), found["took"] >= 0) == ("ValueError: why", 32, True)
    assert found["requested_at"].endswith("+00:00")


def test_a_job_that_is_not_there_is_refused(project: Settings) -> None:
    assert refused("--run", "work") == "There is no job 'work'. There are: -"
    periodic(every=60, name="other")(work)
    assert refused("--run", "work") == "There is no job 'work'. There are: 'other'"
    assert "there is no such election" in refused("--run", "other", "nobody")


def test_a_job_of_several_elections_needs_the_name_of_one(project: Settings) -> None:
    project.LEADER_ELECTIONS["reports"] = {}
    for alias in ("default", "reports"):
        periodic(every=60, name="work", election=alias)(work)
    assert refused("--run", "work").endswith("name one of them, too: default, reports")


def test_a_function_that_the_application_calls_is_refused(project: Settings) -> None:
    once_per_slot(every=60, name="work")(work)
    assert "it is decorated with @once_per_slot, so the application calls it" in refused("--run", "work")


def test_local_elections_and_an_unreachable_redis_are_errors(settings: Settings) -> None:
    periodic(every=60, name="work")(work)
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    assert "LOCAL is True" in refused("--run", "work")
    elections.reset()
    settings.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
    settings.LEADER_ELECTIONS = {"default": {}}
    assert "127.0.0.1:1" in refused("--run", "work")


@pytest.mark.parametrize("timeout", ["0", "-1", "x", "nan", "inf", "43201"])
def test_a_timeout_that_cannot_be_used_is_refused(project: Settings, timeout: str) -> None:
    with pytest.raises(CommandError, match="give more than 0 and at most 43200 seconds"):
        call_command("leader_jobs", "--run", "work", f"--timeout={timeout}")


def test_apps_whose_jobs_are_not_known_are_told(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "broken", {"shop": ValueError("x")})
    err = io.StringIO()
    with pytest.raises(CommandError, match="There is no job"):
        call_command("leader_jobs", "--run", "work", stderr=err)
    assert err.getvalue() == "The jobs of the app shop are not known: x\n"


OUTCOMES = {
    "ok": (0, "work has run in web-1: ok after 1.5 s."),
    "failed": (1, "work has run in web-1 and has failed after 1.5 s: E"),
    "failed-to-start": (1, "work could not be started in web-1: E"),
    "overlapped": (1, "work was not run: its last run still goes on in web-1."),
    "absent": (1, "work was not run: the leader, web-1, has no such job. It may run another release."),
    "withdrawn": (1, "work was not run: no leader has taken the request within"),
    "nobody-leads": (1, "work was not run: no process leads in the election default."),
    "running": (2, "web-1 has taken the request to run work, and has told no end of the run within 60 s."),
    "unknown": (2, "It is not known whether work was run: Redis does not know the request."),
    "of-another-release": (2, "It is not known whether work was run: the leader has answered 'of-another-release',"),
}


@pytest.fixture
def became(project: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Decides the outcome."""
    periodic(every=60, name="work")(work)

    def become(outcome: str) -> None:
        look = Look(5.0, "x", 7, outcome, 1_700_000_000_000, "web-1", 1.5, "E")
        carried = Carried(Order("id", "work", "anna"), outcome, look)
        monkeypatch.setattr(run_now, "run", lambda job, timeout: carried)

    return become


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_has_a_sentence_and_an_exit_status(outcome: str, became: Callable[[str], None]) -> None:
    became(outcome)
    status, said = command("--run", "work")
    assert (status, said[: len(OUTCOMES[outcome][1])]) == OUTCOMES[outcome]
    with override("de"):
        assert command("--run", "work")[1] != said
        found = json.loads(command("--run", "work", "--json")[1])
    assert found["outcome"] == outcome
    assert found["requested_at"] == "2023-11-14T22:13:20+00:00"


def test_redis_that_is_lost_meanwhile_is_an_error(
    became: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Any, timeout: float) -> Carried:
        raise RedisUnavailable("x")

    monkeypatch.setattr(run_now, "run", fails)
    assert refused("--run", "work") == "x"


def test_a_user_without_a_name_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", fails)
    assert run_now.asker().startswith("?@")


def test_output_that_cannot_be_written_is_an_error(became: Callable[[str], None], capsys: Any) -> None:
    became("ok")
    with open("/dev/full", "w") as full, pytest.raises(SystemExit) as ended:
        call_command("leader_jobs", "--run", "work", stdout=full, stderr=sys.stderr)
    assert ended.value.code == 2
