"""The how-to pages for the person on call: what they say happens, on a real server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_leader import Config, LeaderElection
from tests.docs.pages import DOCS, block
from tests.docs.site import Site
from tests.support.servers import GENEROUS, RedisServer, eventually

Make = Callable[..., Site]
LEADS = """
import sys
from django_leader import elections
elections["default"].start()
print(elections["default"].wait_for_leadership(None), flush=True)
sys.stdin.read()
elections["default"].stop()
"""


@pytest.fixture
def make(tmp_path: Path, some_server: RedisServer) -> Make:
    return lambda *pages: Site(tmp_path, some_server, *pages)


def test_each_election_has_its_leader(make: Make) -> None:
    site = make("howto/several-elections")
    site.write("mysite/settings.py", 'for each in LEADER_ELECTIONS.values():\n    each["QUARANTINE"] = 0\n')
    said = site.script("""
import logging, sys, threading
from django_leader import became_leader, elections, is_leader
from my_app import reporting
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
logging.getLogger("django_leader").setLevel(logging.ERROR)
print(reporting.write_report())
told = threading.Event()
became_leader.connect(lambda **kwargs: told.set(), weak=False)  # behind the page's receiver, which prints in its thread
elections["reports"].start()
told.wait(40)
print(reporting.write_report(), is_leader())
elections["reports"].stop()
""")
    assert said.startswith("False\n"), "before it leads"
    assert "True False\n" in said
    assert "this process writes the reports from now on\n" in said
    assert "writes the report\n" in said


def test_a_job_in_steps_ends_with_the_term(make: Make) -> None:
    site = make("howto/when-leadership-is-lost")
    site.manage("migrate")
    said = site.script("""
from datetime import timedelta
from django.contrib.sessions.models import Session
from django.utils import timezone
from django_leader.testing import following, leading
from my_app.cleaning import delete_expired_sessions
Session.objects.bulk_create(
    Session(pk=str(n), session_data="", expire_date=timezone.now() - timedelta(days=1)) for n in range(250)
)
with following():
    print(delete_expired_sessions())
with leading():
    print(delete_expired_sessions(), Session.objects.count())
""")
    assert said.split() == ["0", "250", "0"]


def test_work_that_asks_its_term_ends_with_it(make: Make) -> None:
    site = make("howto/when-leadership-is-lost")
    said = site.script("""
from itertools import count
from threading import Thread
from django_leader import elections
from django_leader.testing import following, leading
from my_app import feed
published = []
feed.publish = published.append
with following():
    print(feed.publish_all("ab"))
with leading():
    print(feed.publish_all("ab", 0.01))
ended = []
with leading():
    thread = Thread(target=lambda: ended.append(feed.publish_all("ab", 100)))
    thread.start()
    while len(published) < 3:
        pass
thread.join(60)
print(ended[0])
print("".join(published))
""")
    not_begun, done, ended, published = said.splitlines()
    assert not_begun.startswith("not begun: LEADER_ELECTIONS['default']: this process (")
    assert ended.startswith("not finished: LEADER_ELECTIONS['default']: the term with token 1 is over")
    assert (done, published) == ("done", "aba")


def test_the_script_waits_until_leadership_has_left_the_host(make: Make) -> None:
    site = make()
    site.write(
        "mysite/settings.py", 'import os\nLEADER_ELECTIONS["default"]["HOSTNAME"] = os.environ.get("HOST", "")\n'
    )
    program = site.folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)

    def candidate(host: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", f"import django; django.setup()\n{LEADS}"],
            cwd=site.folder, env={**site.environment, "HOST": host}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    script = block("howto/move-leadership", "until ", "sh")
    assert '"web-1"' in script
    # As printed, with a mark for each round, so that the test knows that it has waited.
    seen = site.folder / "seen"
    script = script.replace("do sleep 1", f"do echo >> {seen}; sleep 1")
    environment = {**site.environment, "PATH": f"{site.folder}{os.pathsep}{os.environ['PATH']}"}
    with contextlib.ExitStack() as stack:

        def start(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        first = start(candidate("web-1"))
        assert first.stdout
        assert first.stdin
        assert first.stdout.readline() == "True\n"
        second = start(candidate("web-2"))
        waits = start(subprocess.Popen(["sh", "-c", script], cwd=site.folder, env=environment, text=True))
        eventually(seen.exists, "the script has asked once")
        assert waits.poll() is None
        first.stdin.close()
        assert first.wait(GENEROUS) == 0
        assert second.stdout
        assert second.stdin
        assert second.stdout.readline() == "True\n"
        assert waits.wait(GENEROUS) == 0
        second.stdin.close()
        assert second.wait(GENEROUS) == 0


@pytest.fixture
def elect(own_server: RedisServer) -> Iterator[Callable[..., LeaderElection]]:
    made: list[LeaderElection] = []

    def elect(**options: Any) -> LeaderElection:
        config = Config(lock_ttl=GENEROUS, heartbeat_interval=0.2, retry_interval=0.2, **options)
        made.append(LeaderElection(own_server.client(), config))
        made[-1].start()
        return made[-1]

    yield elect
    for election in made:
        election.stop()


def test_a_leader_goes_on_over_a_restart_of_redis(
    own_server: RedisServer, elect: Callable[..., LeaderElection]
) -> None:
    election = elect(quarantine=0)
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    own_server.stop()
    eventually(lambda: election.outage, "the outage is seen")
    assert election.is_leader()
    own_server.start()
    eventually(lambda: not election.outage, "the leader has been there")
    [event] = election.history()
    assert (event.kind, event.reason, event.fencing_token) == ("reclaimed", "state lost", token)
    assert election.is_leader()
    assert election.fencing_token == token


def test_without_a_leader_a_restart_costs_a_quarantine(
    own_server: RedisServer, elect: Callable[..., LeaderElection]
) -> None:
    leader = elect(quarantine=0)
    assert leader.wait_for_leadership(GENEROUS)
    leader.stop()
    own_server.stop()
    own_server.start()
    election = elect(quarantine=1.0)
    assert election.wait_for_leadership(GENEROUS)
    *_, first = election.history()
    assert (first.kind, first.reason) == ("quarantined", "state lost")
    began = election.status().leader
    assert began
    assert began.started_at
    assert (began.started_at - first.at).total_seconds() > 0.9


def test_the_times_of_the_page_are_those_of_the_default_settings() -> None:
    timing = Config().validate().timing
    text = (DOCS / "howto/redis-restart.md").read_text()
    lasts = timing.ttl - timing.margin
    assert f"{lasts:.1f} s after the last heartbeat" in text
    assert "up to 4 s" in text
    assert 4 < lasts - timing.heartbeat - timing.operation < 5
    assert f"a try that hangs takes {timing.operation:g} s" in text
    assert f"(`LOCK_TTL`, {timing.ttl:g} s)" in text
    assert f"`HEARTBEAT_INTERVAL` ({timing.heartbeat:g} s)" in text
    assert f"`QUARANTINE` ({timing.quarantine:g} s)" in text
