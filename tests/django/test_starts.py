"""An election that fails to start starts later by itself: in a process that the system refuses a thread, too."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import request_started
from pytest_django import Settings

from django_leader import elections
from django_leader.runtime.election import LeaderElection
from django_leader.startup import starter as starting
from django_leader.startup.autostart import Decision
from django_leader.startup.starter import Starter
from django_leader.system.starts import starts
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually

pytestmark = pytest.mark.django_db  # Django's own receivers of request_started look at the database


@pytest.fixture
def starter(project: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    """One that believes to be in a process that serves."""
    monkeypatch.setattr(starting, "in_tests", lambda: False)
    monkeypatch.setattr(starting, "decide", lambda *args: Decision("now", "the test wants it"))
    monkeypatch.setattr(starting, "RETRY", 0.02)
    eventually(lambda: not starts.busy)  # with what the test before has left, of which nothing is said again
    yield Starter()
    request_started.disconnect(dispatch_uid="django_leader.startup.starter")


@pytest.mark.parametrize("name", ["django_leader start", "LEADER_ELECTIONS['default'] election"])
def test_a_process_without_a_thread_participates_from_its_next_request_on(
    starter: Starter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The system has refused the thread at the start."""
    monkeypatch.setattr(starting, "PATIENCE", 0.3)
    start, refused, refuses = threading.Thread.start, threading.Event(), True

    def start_or_refuse(thread: threading.Thread) -> None:
        if refuses and thread.name == name:
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    starter.ready()
    assert refused.wait(GENEROUS)
    assert not elections["default"].is_leader()
    refuses = False

    def leads_after_a_request() -> bool:
        request_started.send(sender=None)
        return elections["default"].is_leader()

    eventually(leads_after_a_request, every=0.05)
    assert caplog.text.count("can't start new thread") == 1


def test_a_start_that_fails_for_another_reason_is_tried_again(
    starter: Starter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once."""
    start, failed = LeaderElection.start, list[LeaderElection]()

    def start_or_fail(election: LeaderElection) -> None:
        if len(failed) < 3:
            failed.append(election)
            raise OSError(24, "Too many open files")
        start(election)

    monkeypatch.setattr(LeaderElection, "start", start_or_fail)
    with caplog.at_level(logging.INFO):
        starter.ready()
        eventually(lambda: "started because the test wants it" in caplog.text and elections["default"].is_leader())
    assert len(failed) == 3
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told.startswith("LEADER_ELECTIONS['default']: not started yet; the start is retried: OSError in ")
    assert "start_or_fail (test_starts.py:" in told
    assert caplog.text.count("started because the test wants it") == 1


SCRIPT = """
import json, logging, os, resource, signal, sys, threading, time
import django
from django.conf import settings

options = json.loads(sys.argv[1])
settings.configure(
    SECRET_KEY="tests", INSTALLED_APPS=["django_leader"],
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": options["url"]}},
    LEADER_ELECTIONS={"default": {"QUARANTINE": 0}},
)
import django_leader.startup.starter
import django_leader.handler, django_leader.runtime.election

def allow(*args):
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    threading.stack_size(0)

threading.stack_size(1 << 34)  # so that the system refuses a thread, and nothing else
resource.setrlimit(resource.RLIMIT_AS, (1 << 34, resource.RLIM_INFINITY))
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    assert "can't start" in str(error), error
else:
    raise AssertionError("the system has started a thread")
refused = []

class Note(logging.Handler):
    def emit(self, record):
        if "can't start new thread" in record.getMessage():
            refused.append(record)
            signal.setitimer(signal.ITIMER_REAL, options["seconds"])

logging.getLogger("django_leader").addHandler(Note())
signal.signal(signal.SIGALRM, allow)
begin = time.monotonic()
django.setup()
from django_leader import is_leader
kept = []
while not is_leader() and time.monotonic() < begin + 30:
    kept += [[] for _ in range(1000)]  # as whatever works does, it makes something
    time.sleep(0.01)
print(json.dumps({"leads": is_leader(), "said": len(refused)}), flush=True)
"""


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_a_process_without_requests_participates_when_threads_start_again(
    some_server: RedisServer, seconds: float
) -> None:
    """For half a second ``django.setup()`` waits; for longer the garbage collector tries."""
    options = json.dumps({"url": some_server.url, "seconds": seconds})
    environment = {"PATH": "/usr/bin:/bin", "DJANGO_LEADER_AUTOSTART": "1"}
    done: Any = subprocess.run(
        [sys.executable, "-c", SCRIPT, options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == '{"leads": true, "said": 1}\n', done.stderr
