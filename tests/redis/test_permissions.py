"""An election under the smallest Redis user, which is the one that the manual prints."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command
from pytest_django import Settings

from django_leader import Config, LeaderElection, RedisUnavailable, acl
from django_leader.protocol.fence import mark_key
from django_leader.protocol.jobs import Job
from django_leader.protocol.schedule import Every
from django_leader.runtime.orders import run_now
from django_leader.runtime.runs import JobSpec
from django_leader.settings import read
from tests.docs.pages import block
from tests.support.candidates import ROOT
from tests.support.lease import Lease
from tests.support.servers import GENEROUS, RedisServer, eventually

NAMED = {"CACHE": "leader"}
FAST: dict[str, Any] = {"lock_ttl": 3, "heartbeat_interval": 0.3, "retry_interval": 0.3, "quarantine": 3}


def from_manual() -> list[str]:
    """The words of the command, for the default names of keys."""
    [line] = re.findall(r"^ACL SETUSER leader .*$", block("howto/acl", "ACL SETUSER", "console"), re.MULTILINE)
    return str(line).replace("mysite:", "maplefile:").split()


@pytest.fixture(params=["with INFO", "without INFO"])
def user(request: pytest.FixtureRequest, own_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the user, on a server of which nothing else is allowed."""
    words = from_manual() if request.param == "with INFO" else [word for word in from_manual() if word != "+info"]
    own_server.client().execute_command(*words)  # type: ignore[no-untyped-call]
    yield redis.Redis(port=own_server.port, username="leader", password="password")
    denied = {entry["object"] for entry in own_server.client().acl_log()}
    assert denied <= ({"info"} if request.param == "without INFO" else set())


def test_an_election_needs_no_more_than_the_manual_says(user: redis.Redis, own_server: RedisServer) -> None:
    first, second = (LeaderElection(user, Config(instance_id=name, **FAST)) for name in ("first", "second"))
    try:
        first.start()
        assert first.wait_for_leadership(GENEROUS)
        second.start()
        assert second.wait_for_leadership(0) is False
        status = second.status()
        assert status.leader
        assert (status.leader.instance_id, status.candidates) == ("first", 2)
        token = first.fencing_token
        beats: set[Any] = set()
        eventually(lambda: beats.add(first.get_leader_info().last_heartbeat) or len(beats) > 3, "heartbeats")  # type: ignore[func-returns-value,union-attr]
        assert not first.outage
        own_server.client().flushall()
        eventually(lambda: "reclaimed" in [event.kind for event in second.history()], "the leader has its lease back")
        assert first.fencing_token == token
        eventually(lambda: (first.resign(), second.is_leader())[1], "it resigns until the other one is the faster")
        assert second.get_leader_id() == "second"
    finally:
        first.stop()
        second.stop()


def test_jobs_and_orders_need_no_more_than_the_manual_says(user: redis.Redis) -> None:
    spec = JobSpec(Job("job", Every(1)), lambda run: None)
    election = LeaderElection(user, Config(**FAST | {"lock_ttl": 30}), jobs=lambda: [spec])
    try:
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        eventually(lambda: run_now(election, "job", "anna", GENEROUS).outcome == "ok", "no slot is run just then")
        eventually(lambda: (told := election.job_records(["job"]).each[0]) and told.outcome == "ok", "a slot is run")
    finally:
        election.stop()


def test_the_user_may_touch_nothing_else(own_server: RedisServer) -> None:
    own_server.client().execute_command(*from_manual())  # type: ignore[no-untyped-call]
    user = redis.Redis(port=own_server.port, username="leader", password="password")
    for command in (["GET", "other"], ["FLUSHALL"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["ACL", "LIST"]):
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("db", "rights"), [(0, "+time +hmget"), (1, "+select +get +set")])
def test_a_fenced_write_needs_no_more_than_the_manual_says(db: int, rights: str, own_server: RedisServer) -> None:
    admin, gained = own_server.client(), threading.Event()
    election = LeaderElection(redis.Redis(port=own_server.port), Config(**FAST | {"quarantine": 0}))
    keys = election.config.keys
    mark = keys.state if db == 0 else mark_key(keys)
    words = f"ACL SETUSER writer on >password ~counter ~{mark} +evalsha +eval +incrby {rights}"
    admin.execute_command(*words.split())  # type: ignore[no-untyped-call]
    fenced = election.fenced(redis.Redis(port=own_server.port, db=db, username="writer", password="password"))
    election.on_become_leader(gained.set)
    election.start()
    try:
        assert gained.wait(GENEROUS)
        assert (fenced.incr("counter"), fenced.incr("counter")) == (1, 2)
    finally:
        election.stop()
    assert {entry["object"] for entry in admin.acl_log()} <= {"client|setinfo", "client", "hello"}


CACHES = {
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"},
    "leader": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/5"},
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}
ELECTIONS = {
    "default": {**NAMED, "REDIS_KEY_NAME": "my shop:{l*ck}", "REDIS_INFO_KEY_NAME": "my shop's [info]"},
    "reports": {**NAMED, "CACHE": "default", "MIN_REPLICAS": 1},
    "command:weekly": dict(NAMED),
    "laptop": {"LOCAL": True},
}


@pytest.mark.parametrize("alias", ["default", "command:nightly", "command:weekly"])
def test_the_printed_user_may_do_all_that_a_candidate_does(
    alias: str, own_server: RedisServer, settings: Settings
) -> None:
    settings.CACHES, settings.LEADER_ELECTIONS = CACHES, ELECTIONS
    lines = acl.lines()
    assert list(lines) == ["leader", "default"]
    assert lines["default"].endswith(" +wait")
    own_server.client().execute_command(*lines["leader"].split())  # type: ignore[no-untyped-call]
    user = redis.Redis(port=own_server.port, db=5, username="leader", password="password")
    config = replace(read(alias).config, **FAST)
    first, second = (LeaderElection(user, replace(config, instance_id=name)) for name in ("first", "second"))
    try:
        first.start()
        assert first.wait_for_leadership(GENEROUS)
        second.start()
        eventually(lambda: second._candidacy and second._candidacy.shared.state.watch.version)
        assert first._candidacy
        assert second._candidacy
        Lease(second._connect(), second.config).post(
            first._candidacy.shared.candidate_id, {"duplicate": second._candidacy.shared.candidate_id}
        )
        twins = first._candidacy.diagnostics._duplicates
        eventually(lambda: twins, "the leader has read it")
        first.stop(hold=0.5)
        assert second.wait_for_leadership(GENEROUS)
        assert second.get_leader_id() == "second"
        assert [event.instance_id for event in second.history()][-1] == "first"
    finally:
        first.stop()
        second.stop()
    assert [entry["object"] for entry in own_server.client().acl_log()] == []
    foreign = redis.Redis(port=own_server.port, db=5, username="leader", password="password")
    for key in ("my shop:{lock}", "my shop's i", "maplefile:leader:lock"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            foreign.get(key)


def test_the_line_is_printed_for_each_server_and_for_programs(settings: Settings) -> None:
    settings.CACHES, settings.LEADER_ELECTIONS = CACHES, ELECTIONS
    text, rows = StringIO(), StringIO()
    call_command("leader_status", "--acl", stdout=text)
    call_command("leader_status", "--acl", "--json", "reports", stdout=rows)
    assert [line.split()[0] for line in text.getvalue().splitlines()] == ["#", "ACL", "#", "ACL"]
    [row] = json.loads(rows.getvalue())
    assert row["cache"] == "default"
    assert "command:" not in row["acl"]


def test_the_line_needs_only_what_can_carry_an_election(settings: Settings) -> None:
    settings.CACHES, settings.LEADER_ELECTIONS = CACHES, {"reports": {"CACHE": "leader"}}
    assert list(acl.lines()) == ["leader", "default"], "guarded commands have the default settings"
    settings.CACHES = {**CACHES, "default": CACHES["local"]}
    assert list(acl.lines()) == ["leader"]
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    assert acl.lines() == {}
    settings.LEADER_ELECTIONS = None
    with pytest.raises(CommandError, match=r"^LEADER_ELECTIONS\['default'\]: CACHE is 'default', whose"):
        call_command("leader_status", "--acl")


@pytest.mark.parametrize("rule", ["resetkeys ~other", "-evalsha", "-get", "-time"])
def test_an_error_for_a_missing_right_names_keys_and_remedy(
    rule: str, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The user of Redis lacks a permission: the error and the log say which keys are used and what to do."""
    own_server.client().execute_command(*from_manual())  # type: ignore[no-untyped-call]
    own_server.client().execute_command("ACL SETUSER leader", *rule.split())  # type: ignore[no-untyped-call]
    user = redis.Redis(port=own_server.port, username="leader", password="password")
    election = LeaderElection(user, Config(**FAST), name="nightly")
    with pytest.raises(RedisUnavailable) as error:
        election.status()
    election.start()
    try:
        eventually(lambda: election.outage)
    finally:
        election.stop()
    for text in (str(error.value), caplog.text):
        assert "LEADER_ELECTIONS['nightly']" in text
        for word in ("'maplefile:leader:lock'", "'maplefile:leader:info'", "'{maplefile:leader:lock}:*'"):
            assert word in text
        assert "leader_status --acl" in text
    assert "Redis refused a request of the election" in caplog.text
    assert "unreachable" not in caplog.text


def test_each_word_of_it_is_needed() -> None:
    words = from_manual()
    sources = "".join(path.read_text() for path in (ROOT / "django_leader").rglob("*.lua"))
    sources += "".join(path.read_text() for path in (ROOT / "django_leader" / "redis").glob("*.py"))
    sources += (ROOT / "django_leader" / "protocol" / "requests.py").read_text()
    used = {name.lower() for name in re.findall(r"""["']([A-Z]{3,})["']""", sources)}
    assert {word[1:] for word in words if word.startswith("+")} <= used | {"select"}  # which redis-py sends
