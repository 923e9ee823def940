"""How the starter carries out what was decided, where a server forks. Real servers are in tests/process."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.core.signals import request_started
from django.test.client import ClientHandler
from pytest_django import Settings

from django_leader import elections
from django_leader.runtime.lifecycle import lifecycle
from django_leader.startup import servers
from django_leader.startup import starter as starting
from django_leader.startup.autostart import AT_REQUEST, IN_WORKERS, Decision, inspect_process
from django_leader.startup.servers import THREADLESS
from django_leader.startup.starter import Starter
from tests.django.conftest import FAST
from tests.support.candidates import ROOT
from tests.support.servers import eventually

pytestmark = pytest.mark.django_db  # Django's own receivers of request_started look at the database


@pytest.fixture
def starter(project: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that believes to be in a process that only forks those that serve."""
    monkeypatch.setattr(starting, "in_tests", lambda: False)
    monkeypatch.setattr(starting, "decide", lambda *args: Decision(IN_WORKERS, "the test wants it"))
    yield Starter()
    request_started.disconnect(dispatch_uid="django_leader.startup.starter")


@pytest.fixture
def timers() -> Iterator[Callable[[], list[threading.Timer]]]:
    """Return the timers of the test itself. They end with it."""
    before = set(threading.enumerate())

    def timers() -> list[threading.Timer]:
        return [thread for thread in set(threading.enumerate()) - before if isinstance(thread, threading.Timer)]

    yield timers
    for timer in timers():
        timer.cancel()
        timer.join()


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch, timers: Callable[[], list[threading.Timer]]) -> Any:
    """The module that uWSGI gives to its processes, in the master."""
    module: Any = ModuleType("uwsgi")
    module.worker_id, module.opt, module.has_threads, module.timers = lambda: 0, {}, 1, timers
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    monkeypatch.delitem(sys.modules, "uwsgidecorators", raising=False)
    return module


def test_the_master_of_uwsgi_prepares_and_its_workers_start_and_stop(
    starter: Starter, uwsgi: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "exiting", False)  # the test's process goes on
    called: list[str] = []
    uwsgi.post_fork_hook = lambda: called.append("the application's")
    starter.ready()
    assert not elections["default"].running
    uwsgi.worker_id = lambda: 2
    uwsgi.post_fork_hook()
    assert called == ["the application's"]
    eventually(lambda: elections["default"].running)
    uwsgi.atexit()
    eventually(lambda: not elections["default"].running)


def test_a_worker_of_uwsgi_starts_when_it_serves_and_not_again(
    starter: Starter, uwsgi: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal that comes before would be lost, so that its server waited for it for ever."""
    monkeypatch.setattr(servers, "SERVES_SOON", 3600.0)
    caplog.set_level("INFO")
    starter.ready()
    uwsgi.worker_id = lambda: 1
    uwsgi.post_fork_hook()
    assert not elections["default"].running
    request_started.send(sender=None)
    eventually(lambda: elections["default"].running)
    [timer] = uwsgi.timers()
    timer.cancel()
    timer.function()
    assert caplog.text.count("started because") == 1


def test_s19_a_child_forked_by_a_worker_of_uwsgi_does_not_start(
    starter: Starter, uwsgi: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of the worker. With gevent the timer is a greenlet, which goes on in the child."""
    monkeypatch.setattr(servers, "SERVES_SOON", 3600.0)
    starter.ready()
    uwsgi.worker_id = lambda: 1
    uwsgi.post_fork_hook()
    [timer] = uwsgi.timers()
    timer.cancel()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        timer.function()
    assert starter._started == {}
    timer.function()
    eventually(lambda: elections["default"].running)


def test_s19_a_child_forked_in_c_before_django_is_ready_does_not_start(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ready:
        def wait(self) -> None:
            monkeypatch.setattr(os, "getpid", lambda: -1)

    started: list[str] = []
    monkeypatch.setattr(apps, "ready_event", Ready())
    monkeypatch.setattr(starter, "_start", lambda *args: started.append("in the child"))
    starter._start_when_ready()
    assert started == []


def test_a_worker_that_loads_the_application_itself_stops_with_uwsgi_too(
    starter: Starter, uwsgi: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--lazy-apps``."""
    monkeypatch.setattr(lifecycle, "exiting", False)
    monkeypatch.setattr(starting, "decide", lambda *args: Decision("now", "the test wants it"))
    starter.ready()
    eventually(lambda: elections["default"].running)
    uwsgi.atexit()
    eventually(lambda: not elections["default"].running)


def test_a_mule_of_uwsgi_serves_nobody(starter: Starter, uwsgi: Any) -> None:
    starter.ready()
    uwsgi.post_fork_hook()
    assert not uwsgi.timers()
    assert not elections["default"].running


def test_the_chain_of_uwsgidecorators_is_used_where_there_is_one(
    starter: Starter, uwsgi: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decorators = SimpleNamespace(postfork_chain=[])
    monkeypatch.setitem(sys.modules, "uwsgidecorators", decorators)
    starter.ready()
    assert not hasattr(uwsgi, "post_fork_hook")
    uwsgi.worker_id = lambda: 1
    [hook] = decorators.postfork_chain
    hook()
    eventually(lambda: elections["default"].running)


@pytest.mark.parametrize(
    ("attributes", "threadless"),
    [
        ({"has_threads": 1}, False),
        ({"has_threads": 0}, True),
        ({"opt": {"processes": b"2"}}, True),
        ({"opt": {"enable-threads": True}}, False),
        ({"opt": {b"threads": b"4"}}, False),
    ],
)
def test_uwsgi_without_threads_is_seen(uwsgi: Any, attributes: dict[str, Any], threadless: bool) -> None:
    del uwsgi.has_threads
    vars(uwsgi).update(attributes)
    assert inspect_process().threadless is threadless


def test_uwsgi_without_threads_gets_a_loud_error_with_the_option_to_add(
    project: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starting, "decide", lambda *args: Decision("never", THREADLESS))
    Starter().ready()
    assert "LEADER_ELECTIONS['default']: does not start: uWSGI runs without threads" in caplog.text
    assert "enable-threads = true" in caplog.text
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("handled", [True, False])
def test_a_worker_of_celery_hands_over_when_it_begins_to_shut_down(
    starter: Starter, project: Settings, monkeypatch: pytest.MonkeyPatch, handled: bool
) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "HANDLE_SIGTERM": handled}}
    receivers: list[Any] = []
    shutting_down = SimpleNamespace(connect=lambda receiver, **kwargs: receivers.append(receiver))
    monkeypatch.setitem(sys.modules, "celery.signals", SimpleNamespace(worker_shutting_down=shutting_down))
    monkeypatch.setattr(starting, "decide", lambda *args: Decision("now", "the test wants it"))
    starter.ready()
    eventually(lambda: elections["default"].is_leader())
    [receiver] = receivers
    receiver(sender="worker", sig="SIGTERM", how="Warm", exitcode=0)
    if handled:
        eventually(lambda: not elections["default"].running)
    assert elections["default"].running is not handled


@pytest.mark.parametrize("start", ["now", AT_REQUEST])
def test_where_twisted_ends_by_the_signal_the_elections_hand_over_before(
    starter: Starter, project: Settings, monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    triggers: list[tuple[str, str, Any]] = []
    reactor = SimpleNamespace(
        callFromThread=lambda call, *arguments: call(*arguments),
        addSystemEventTrigger=lambda *trigger: triggers.append(trigger),
    )
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr(starting, "decide", lambda *args: Decision(start, "the test wants it"))
    survived: list[float] = []
    monkeypatch.setattr(lifecycle.sigterm, "_survived", lambda pid, stays: survived.append(stays))
    starter.ready()
    starter._start("", start)
    eventually(lambda: elections["default"].is_leader())
    for phase in ("before", "after"):
        for found, event, act in list(triggers):
            if found == phase:
                assert event == "shutdown"
                act()
    assert not elections["default"].running
    assert survived, "if the process lives on, it is a candidate again"


@pytest.mark.parametrize("fault", [RuntimeError, AttributeError])
def test_a_reactor_that_cannot_be_told_keeps_no_election_from_starting(
    starter: Starter, project: Settings, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def refuse(*arguments: Any) -> None:
        raise fault("the loop is closed")

    reactor = SimpleNamespace(callFromThread=refuse, addSystemEventTrigger=refuse)
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    monkeypatch.setattr(starting, "decide", lambda *args: Decision("now", "the test wants it"))
    starter.ready()
    eventually(lambda: elections["default"].is_leader())


class Settable:
    """What gunicorn calls ``cfg``."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.post_worker_init: Any = lambda worker: self.called.append("the application's")

    def set(self, name: str, value: Any) -> None:
        setattr(self, name, value)


def forked_by(module: str, function: str, inside: Any) -> Any:
    """Has a frame of ``module.function``, which has a local ``worker``, call ``inside``."""
    namespace: dict[str, Any] = {"__name__": module}
    exec(f"def {function}(inside, worker): return inside()", namespace)
    return lambda worker: namespace[function](inside, worker)


def forked_worker(starter: Starter) -> Any:
    """The hook that runs after a fork."""
    return functools.partial(servers.after_fork_of_gunicorn, starter._start_in_worker)


def test_a_worker_that_gunicorn_forks_starts_when_it_is_ready(starter: Starter) -> None:
    starter.ready()
    worker = SimpleNamespace(cfg=Settable())
    forked_by("gunicorn.arbiter", "spawn_worker", forked_worker(starter))(worker)
    assert not elections["default"].running
    worker.cfg.post_worker_init(worker)
    assert worker.cfg.called == ["the application's"]
    assert elections["default"].running


def test_what_a_worker_of_gunicorn_forks_starts_nothing(starter: Starter) -> None:
    starter.ready()
    worker = SimpleNamespace(cfg=Settable())
    before = worker.cfg.post_worker_init
    own = forked_by("gunicorn.workers.base", "init_process", forked_worker(starter))
    forked_by("gunicorn.arbiter", "spawn_worker", lambda: own(worker))(worker)
    forked_worker(starter)()
    assert worker.cfg.post_worker_init is before


def test_a_gunicorn_that_is_not_as_expected_hinders_nobody(starter: Starter, caplog: pytest.LogCaptureFixture) -> None:
    starter.ready()
    forked_by("gunicorn.arbiter", "spawn_worker", forked_worker(starter))(SimpleNamespace())
    assert "is a candidate from its first request on" in caplog.text


@pytest.fixture
def broken_filter(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """One that the project has put on our logger, and that expects a request in each record."""

    def expect_request(record: Any) -> bool:
        return bool(record.request)

    logger = logging.getLogger("django_leader")
    caplog.set_level("INFO")
    logger.addFilter(expect_request)
    yield
    logger.removeFilter(expect_request)


@pytest.mark.parametrize("entry", [{}, {"AUTOSTART": "yes"}, {"LOCK_TTL": "5"}, {"CACHE": "local"}])
@pytest.mark.usefixtures("broken_filter")
def test_a_log_filter_that_raises_stops_neither_setup_nor_requests(
    starter: Starter, project: Settings, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any]
) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, **entry}}
    for decision in (Decision(AT_REQUEST, "the test wants it"), Decision("never", THREADLESS)):
        monkeypatch.setattr(starting, "decide", lambda *args, decision=decision: decision)
        monkeypatch.setattr(starting, "starter", Starter())
        starting.begin()
        request_started.send(sender=None)
        request_started.disconnect(dispatch_uid="django_leader.startup.starter")
    forked_by("gunicorn.arbiter", "spawn_worker", forked_worker(starter))(SimpleNamespace())


@pytest.mark.usefixtures("broken_filter")
def test_a_setting_that_is_no_dict_ends_no_setup(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a log filter that raises when this is logged."""
    project.LEADER_ELECTIONS = []
    monkeypatch.setattr(starting, "starter", Starter())
    starting.begin()


@pytest.mark.parametrize("start", [IN_WORKERS, AT_REQUEST])
def test_the_test_client_is_no_request(starter: Starter, monkeypatch: pytest.MonkeyPatch, start: Any) -> None:
    monkeypatch.setattr(starting, "decide", lambda *args: Decision(start, "the test wants it"))
    starter.ready()
    for sender in (
        ClientHandler,
        type("ForceAuthClientHandler", (ClientHandler,), {"__module__": "rest_framework.test"}),
    ):
        request_started.send(sender=sender)
        assert not elections["default"].running
    request_started.send(sender=None)
    eventually(lambda: elections["default"].running)


def test_a_process_that_is_no_candidate_imports_no_client_of_redis() -> None:
    code = (
        "import sys, django; django.setup()\n"
        "import django_leader; django_leader.became_leader.connect(print)\n"
        "print({'redis', 'django_redis', 'django_leader.protocol.config', 'django_leader.runtime.election'}"
        " & set(sys.modules))"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stdout + done.stderr
