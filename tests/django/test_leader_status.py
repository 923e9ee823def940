"""``manage.py leader_status``: the table, the JSON, the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings
from pytest_django import Settings

from django_leader import LeaderElection, elections
from django_leader.management.commands import leader_status
from django_leader.settings import read
from tests.django.conftest import CLUSTER_CACHE, FAST, caches
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually


def status(*arguments: str) -> tuple[int, str, str]:
    out, err, code = StringIO(), StringIO(), 0
    try:
        call_command("leader_status", *arguments, stdout=out, stderr=err, no_color=True)
    except SystemExit as end:
        code = int(str(end.code))
    return code, out.getvalue(), err.getvalue()


def test_with_a_leader_it_shows_all_of_it_and_ends_with_0(project: Settings) -> None:
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    code, out, err = status()
    assert (code, err) == (0, "")
    titles, line = out.splitlines()
    assert titles.split("  ")[0] == "ELECTION"
    for part in ("default", election.instance_id, election.config.hostname, str(election.fencing_token), "leads"):
        assert part in line
    assert line[titles.index("PID") :].split()[0] == str(os.getpid())


def test_json_has_the_same_for_programs(project: Settings) -> None:
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    code, out, _ = status("--json")
    [row] = json.loads(out)
    assert code == row["status"] == 0
    assert row["leader"] == elections["default"].instance_id
    assert row["token"] == elections["default"].fencing_token
    assert row["pid"] == os.getpid()
    assert 0 < row["lease_left"] <= FAST["LOCK_TTL"]
    assert row["since"].startswith("20")
    assert row["since"].endswith("+00:00")
    assert row["candidates"] == 1
    assert row["this_process"] == "leads"


def test_without_a_leader_it_ends_with_1(project: Settings) -> None:
    code, out, _ = status("default")
    assert code == 1
    assert "is not participating" in out


def test_all_elections_are_shown_and_the_worst_counts(project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": FAST, "second": FAST}
    elections["second"].start()
    assert elections["second"].wait_for_leadership(GENEROUS)
    code, out, _ = status()
    assert code == 1
    assert len(out.splitlines()) == 3
    assert status("second")[0] == 0
    assert status("command:nightly")[0] == 1


def test_when_redis_cannot_be_asked_it_ends_with_2(project: Settings, own_server: RedisServer) -> None:
    project.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": own_server.url}}
    own_server.stop()
    code, out, err = status()
    assert code == 2
    assert "default" in out
    assert "refused" in err
    code, out, _ = status("--json")
    assert code == 2
    assert "refused" in json.loads(out)[0]["error"]


def test_a_cache_that_carries_no_election_is_told_and_not_raised(project: Settings) -> None:
    project.CACHES = {"default": CLUSTER_CACHE}
    match = r"^LEADER_ELECTIONS\['default'\]: CACHE is 'default': this is a Redis Cluster \(Cluster\), which"
    for arguments in ([], ["--json"]):
        with pytest.raises(CommandError, match=match) as error:
            status(*arguments)
        assert error.value.returncode == 2


def test_a_leader_from_elsewhere_with_odd_times_is_shown(project: Settings, some_server: RedisServer) -> None:
    redis = some_server.client()
    redis.set("maplefile:leader:lock", "go-1\x1b[31m", px=60_000)
    info = {"instance_id": "go-1\x1b[31m", "hostname": "h\ud800", "started_at": "0001-01-01T00:00:00Z"}
    redis.set("maplefile:leader:info", json.dumps(info), px=60_000)
    project.TIME_ZONE = "America/Chicago"
    code, out, _ = status()
    assert code == 0
    assert "go-1[31m" in out
    assert "\x1b" not in out
    assert json.loads(status("--json")[1])[0]["pid"] is None, "it has published none"


def test_an_empty_setting_is_an_error_that_says_what_to_do(project: Settings) -> None:
    project.LEADER_ELECTIONS = {}
    with pytest.raises(CommandError, match="LEADER_ELECTIONS is empty"):
        status()


def test_an_unknown_election_is_an_error_that_says_what_to_do(project: Settings) -> None:
    with pytest.raises(CommandError, match="there is no such election") as error:
        status("nowhere")
    assert error.value.returncode == 2


def test_explain_says_where_an_election_starts_and_asks_nobody(settings: Any) -> None:
    code, out, _ = status("--explain")
    assert code == 0
    assert "this process" in out
    for line in out.splitlines():
        if "runserver" in line:
            assert " now " in line
        if "another manage.py command" in line:
            assert " never " in line
    rows = json.loads(status("--explain", "--json")[1])
    starts = [row["starts"] for row in rows if row["process"] != "same-host take-over"]
    assert set(starts) == {"now", "never", "in each worker", "at the first request"}
    assert len(starts) == len(rows) - 1


@pytest.mark.parametrize(
    ("wanted", "why", "starts", "because"),
    [
        (True, "", "on", "a leader on this host is replaced when it dies"),
        (True, "[Errno 1] Operation not permitted: 'pidfd_open'", "off", "Operation not permitted: 'pidfd_open'"),
        (False, "", "off", "SAME_HOST_TAKEOVER is False"),
        (False, "[Errno 1] Operation not permitted: 'pidfd_open'", "off", "SAME_HOST_TAKEOVER is False"),
    ],
)
def test_s24_explain_says_whether_same_host_takeover_works(
    settings: Any, monkeypatch: pytest.MonkeyPatch, wanted: bool, why: str, starts: str, because: str
) -> None:
    """That is, whether a leader on this host that dies is replaced at once."""
    settings.LEADER_ELECTIONS = {"default": {"SAME_HOST_TAKEOVER": wanted}}
    monkeypatch.setattr(leader_status, "unsupported", lambda: why)
    *_, row = json.loads(status("--explain", "--json")[1])
    assert (row["process"], row["starts"]) == ("same-host take-over", starts)
    assert because in row["because"]
    *_, line = status("--explain")[1].splitlines()
    assert line.split()[1:4] == ["same-host", "take-over", starts]
    assert line.endswith(row["because"])


def test_help_documents_the_exit_status() -> None:
    from django.core.management import load_command_class

    text = (
        load_command_class("django_leader", "leader_status").create_parser("manage.py", "leader_status").format_help()
    )
    words = " ".join(text.split())
    assert "Exit status: 0 if each has a leader, 1 if one has none, 2 if that cannot be found out" in words
    for cause in ("Redis is unreachable", "settings cannot be used", "alias is unknown", "LOCAL is True", "output"):
        assert cause in words


def test_a_quarantine_is_said_to_people_and_to_programs(project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": 60}}
    elections["default"].start()
    eventually(lambda: elections["default"].status().quarantined)
    code, _, err = status()
    assert code == 1
    assert err.startswith("default: Redis is new or has lost data; no leader is elected for up to ")
    assert err.endswith(" s (QUARANTINE)\n")
    code, out, _ = status("--json")
    [row] = json.loads(out)
    assert (code, row["quarantined"], row["leader"]) == (1, True, None)


def test_a_leader_of_another_project_is_told_to_people_and_to_programs(
    project: Settings, some_server: RedisServer
) -> None:
    with override_settings(SECRET_KEY="that of another project"):
        theirs = read("default").config.projects
        leader = LeaderElection(some_server.client(), read("default").config)
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    code, _, err = status()
    assert code == 0
    assert err.startswith(f"default: another project participates in this election (fingerprint {theirs[0]!r}; ours ")
    assert "'maplefile:leader:lock'" in err
    assert "REDIS_KEY_NAME" in err
    [row] = json.loads(status("--json")[1])
    assert (row["status"], row["other_project"]) == (0, theirs[0])
    leader.stop()


NAME = "café-\u4e2d-\U0001f40d"


def shell(server: RedisServer, command: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Runs ``command``, in which ``leader_status`` is that of a project on ``server``."""
    program = f"{sys.executable} -m testproject.manage leader_status"
    return subprocess.run(
        ["bash", "-c", command.replace("leader_status", program)],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "testproject.settings", "REDIS_URL": server.url, **more},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def led(some_server: RedisServer) -> RedisServer:
    some_server.client().set("maplefile:leader:lock", NAME, px=600_000)
    return some_server


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"caf\xe9-\u4e2d-\U0001f40d"), ("latin-1", r"café-\u4e2d-\U0001f40d"), ("utf-8", NAME)],
)
def test_a_terminal_that_lacks_a_character_gets_an_escape(led: RedisServer, encoding: str, shown: str) -> None:
    done = shell(led, "leader_status", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, b"")
    titles, line = done.stdout.decode(encoding).splitlines()
    assert line[titles.index("LEADER") : titles.index("HOST")].rstrip() == shown
    done = shell(led, "leader_status --json", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["leader"] == NAME


def test_an_argument_that_is_no_text_is_an_error(led: RedisServer) -> None:
    done = shell(led, r"leader_status $'command:caf\xe9' default")
    assert done.returncode == 2
    assert b"command:caf\\udce9" in done.stderr


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        ("leader_status default | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("leader_status default command:x | true; exit ${PIPESTATUS[0]}", 1, ""),
        ("leader_status default 2>&1 | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("leader_status default >&-", 0, ""),
        ("leader_status default command:x >&- 2>&-", 1, ""),
        ("leader_status default > /dev/full", 2, "The output cannot be written: No space left on device"),
        ("leader_status default > /dev/full 2>&1", 2, ""),
        ("leader_status --acl > /dev/full", 2, "The output cannot be written: No space left on device"),
        ("leader_status --acl | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("REDIS_URL=redis://127.0.0.1:1/0 leader_status default 2> /dev/full", 2, ""),
        ("REDIS_URL=redis://127.0.0.1:1/0 leader_status default 2>&-", 2, ""),
        ("REDIS_URL=redis://127.0.0.1:1/0 leader_status default 2>&1 | true; exit ${PIPESTATUS[0]}", 2, ""),
    ],
)
def test_the_exit_status_tells_of_the_election_whatever_becomes_of_the_output(
    led: RedisServer, command: str, status: int, error: str
) -> None:
    done = shell(led, command)
    assert (done.returncode, done.stderr.decode().strip()) == (status, error)


def test_a_frozen_redis_is_asked_for_all_elections_at_once(project: Settings, own_server: RedisServer) -> None:
    project.CACHES = caches(own_server.url)
    names = ["default", *(f"election-{number}" for number in range(20))]
    project.LEADER_ELECTIONS = dict.fromkeys(names, FAST)
    own_server.freeze()
    began = time.monotonic()
    code, out, err = status()
    # An operation takes 1.96 s at the most, so one after the other they take 41 s.
    assert time.monotonic() - began < 20
    own_server.thaw()
    assert code == 2
    assert len(out.splitlines()) == len(err.splitlines()) + 1 == 22
    assert all(f"LEADER_ELECTIONS['{name}']: " in err for name in names)


def test_a_candidate_does_not_follow_while_redis_is_away(project: Settings, own_server: RedisServer) -> None:
    project.CACHES = caches(own_server.url)
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    own_server.stop()
    eventually(lambda: not election.is_leader() and election.outage)
    [row] = json.loads(status("--json")[1])
    assert row["this_process"] == "is a candidate"
    assert "follows" not in status()[1]


def test_a_candidate_follows_a_leader(project: Settings, some_server: RedisServer) -> None:
    some_server.client().set("maplefile:leader:lock", "somebody", px=60_000)
    elections["default"].start()
    eventually(lambda: json.loads(status("--json")[1])[0]["this_process"] == "follows")


def test_a_token_of_thousands_of_digits_is_shown_as_none(project: Settings, some_server: RedisServer) -> None:
    redis = some_server.client()
    redis.hset("{maplefile:leader:lock}:state", "token", "9" * 5000)
    redis.set("maplefile:leader:lock", "a\u202eb", px=60_000)
    redis.set("maplefile:leader:info", '{"instance_id": "a\u202eb", "pid": %s}' % ("9" * 5000), px=60_000)
    [row] = json.loads(status("--json")[1])
    assert (row["token"], row["leader"]) == (None, "ab")
    assert "ab" in status()[1]


def test_a_local_election_is_shown_where_it_runs_and_unknown_elsewhere(project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "LOCAL": True}}
    code, out, err = status()
    assert code == 2
    assert "is not participating" in out
    assert err == "default: LOCAL is True: each candidate leads independently, and does not know of the others\n"
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    code, out, err = status()
    assert (code, err[:22]) == (0, "default: LOCAL is True")
    assert elections["default"].instance_id in out
