"""``@leader_required``: who runs, who does not, and what stops a body that must not go on."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.management import call_command, load_command_class
from django.core.management.base import BaseCommand, CommandError
from pytest_django import Settings

from django_leader import Config, LeaderElection, LeaderInfo, LeadershipLost, elections, leader_required
from django_leader.decorators import _who_leads
from django_leader.protocol.records import Preconditions
from django_leader.redis.connector import connector
from django_leader.runtime import guard
from django_leader.runtime.guard import run_guarded
from django_leader.system import clock
from django_leader.system.interruption import shielded
from django_leader.testing import following, leading, real_elections
from tests.commands.management.commands import guarded, guarded_class, guarded_inner
from tests.django.conftest import CLUSTER_CACHE, FAST
from tests.support.candidates import ROOT
from tests.support.lease import Lease
from tests.support.servers import RedisServer, eventually

LONG = 20.0
HOLD = 2.0
"""Of the command whose class is decorated."""


@leader_required(election="nested")
class Nested(BaseCommand):
    """A command of an election that others of its kind share."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.result = name, ""
        self.body: Any = lambda: None

    def handle(self, *args: Any, **options: Any) -> None:
        self.result = str(self.body())


@pytest.fixture(autouse=True)
def clean(project: Settings) -> Iterator[None]:
    guarded.runs.clear()
    with real_elections():
        yield
    guarded_class.body[0] = guarded_inner.body[0] = lambda: None


def other(server: RedisServer, alias: str) -> LeaderElection:
    """Another process, as far as Redis can tell, that leads the election ``alias``."""
    config = elections[alias].config
    election = LeaderElection(
        redis.Redis(port=server.port),
        Config(config.redis_key_name, config.redis_info_key_name, 6, 0.4, 0.3, "other", "other-host", 0),
    )
    election.start()
    assert election.wait_for_leadership(LONG)
    return election


def test_the_only_process_runs_the_command_and_lets_go(project: Settings) -> None:
    out, err = StringIO(), StringIO()
    assert call_command("guarded", option="y", stdout=out, stderr=err) == "done"
    assert guarded.runs[0]["option"] == "y"
    assert err.getvalue() == ""
    election = elections["command:guarded"]
    assert not election.running
    assert election.get_leader_info() is None
    call_command("guarded", stdout=out)
    assert len(guarded.runs) == 2


def test_the_first_run_on_an_empty_server_waits_for_the_quarantine(project: Settings) -> None:
    """Then it runs."""
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": 1}}
    err = StringIO()
    assert call_command("guarded", stderr=err) == "done"
    assert err.getvalue() == ""
    kinds = [event.kind for event in elections["command:guarded"].history()]
    assert kinds == ["resigned", "elected", "quarantined"]


def test_a_lease_left_behind_by_the_last_run_is_taken_over(project: Settings, some_server: RedisServer) -> None:
    """The new run watches it first, within its one attempt."""
    config = replace(elections["command:guarded"].config, lock_ttl=1, heartbeat_interval=0.2, instance_id="crashed")
    lease = Lease(connector(redis.Redis(port=some_server.port).connection_pool), config)
    lease.campaign("crashed:0123456789abcdef", Preconditions(), LeaderInfo("crashed"))
    lease.channel.drop()
    eventually(lambda: not some_server.client().exists(config.redis_key_name), "its lease is over")
    assert call_command("guarded", stderr=StringIO()) == "done", "and not: not run, in the one attempt that it has"
    assert [event.kind for event in elections["command:guarded"].history()][:2] == ["resigned", "taken-over"]


def test_while_redis_is_in_quarantine_who_does_not_wait_is_told_why(project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": 3600}}
    election = elections["command:guarded"]
    election.start()
    eventually(lambda: election.status().quarantined)
    assert 3600 - LONG < election.status().lease_left <= 3600
    text = _who_leads(election)
    election.stop()
    lost = "Redis is new or has lost data, so no leader of the election 'command:guarded' is elected"
    assert re.fullmatch(rf"{lost} for up to 3[56]\d\d\.\d s \(QUARANTINE\)", text)


def test_the_body_is_not_run_while_another_process_leads(some_server: RedisServer) -> None:
    """One line says which process leads."""
    leader = other(some_server, "command:guarded")
    out, err = StringIO(), StringIO()
    assert call_command("guarded", stdout=out, stderr=err, no_color=True) is None
    leader.stop()
    assert guarded.runs == []
    assert out.getvalue() == ""
    [line] = err.getvalue().splitlines()
    assert line.startswith("Not run: other on other-host (pid ")
    assert line.endswith("leads the election 'command:guarded'")


def test_the_exit_status_of_who_does_not_lead_is_an_argument(some_server: RedisServer) -> None:
    leader = other(some_server, "command:guarded_class")
    with pytest.raises(CommandError, match=r"^Not run: other on other-host") as error:
        call_command("guarded_class")
    leader.stop()
    assert error.value.returncode == 3


def test_a_leader_of_the_web_processes_does_not_block_a_command(some_server: RedisServer) -> None:
    """A command has an election of its own."""
    leader = other(some_server, "default")
    call_command("guarded", stdout=StringIO())
    leader.stop()
    assert len(guarded.runs) == 1


def test_a_hot_standby_waits_until_the_leader_is_gone(some_server: RedisServer) -> None:
    leader = other(some_server, "default")
    ran = threading.Event()
    guarded_class.body[0] = ran.set
    waiting = threading.Thread(target=call_command, args=["guarded_default"])
    waiting.start()
    eventually(lambda: elections["default"].running)
    assert not ran.wait(0.1)
    leader.stop()
    assert ran.wait(LONG)
    waiting.join(LONG)
    assert not elections["default"].running


def test_hold_keeps_the_lease_after_the_end(project: Settings) -> None:
    call_command("guarded_class")
    with pytest.raises(CommandError, match=r"^Not run: the last leader .* holds it for another [0-2]\.[0-9] s"):
        call_command("guarded_class")
    assert elections["command:guarded_class"].get_leader_info() is None
    eventually(lambda: elections["command:guarded_class"].status().lease_left == 0)
    call_command("guarded_class")


@pytest.mark.parametrize("around", [True, False])
def test_a_body_that_gets_no_thread_keeps_no_lease(
    project: Settings, monkeypatch: pytest.MonkeyPatch, around: bool
) -> None:
    """Also when the election runs for another reason, so that the end of the command does not end it."""
    election, start = elections["command:guarded_class"], threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.endswith("interrupt"):
            raise RuntimeError("can't start new thread")
        start(thread)

    if around:
        election.start()
        assert election.wait_for_leadership(LONG)
    ran: list[bool] = []
    guarded_class.body[0] = lambda: ran.append(True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(CommandError, match=r"^Not run: .*can't start new thread.*process limits") as error:
            call_command("guarded_class")
    assert error.value.returncode == 2
    assert (ran, election.running) == ([], around)
    call_command("guarded_class")
    assert ran == [True]
    election.stop()


@pytest.mark.parametrize("step", [-10_000, 10_000])
def test_s12_a_step_of_the_servers_clock_neither_ends_nor_prolongs_a_hold(
    project: Settings, some_server: RedisServer, step: int
) -> None:
    """For a later process on the same host, which has its boot clock."""
    call_command("guarded_class")
    election, client = elections["command:guarded_class"], some_server.client()
    client.hincrby(election.config.keys.state, "until", step)  # which the server compares with its clock
    with pytest.raises(CommandError, match=r"^Not run: the last leader .* holds it for another [0-2]\.[0-9] s"):
        call_command("guarded_class")
    released = election.history(1)[0]
    assert released.kind == "resigned"

    def runs() -> bool:
        with suppress(CommandError):
            call_command("guarded_class")
        return election.history(1)[0] != released

    eventually(runs, timeout=HOLD + 3)


def test_a_body_that_raises_lets_go_and_its_error_comes_through(project: Settings) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    guarded_class.body[0] = fails
    with pytest.raises(ZeroDivisionError):
        call_command("guarded_class")
    assert not elections["command:guarded_class"].running


def test_a_cache_that_carries_no_election_is_a_command_error(project: Settings) -> None:
    """One sentence and an exit status, no traceback."""
    project.CACHES = {"default": CLUSTER_CACHE}
    with pytest.raises(CommandError, match=r"^Not run: LEADER_ELECTIONS.*: this is a Redis Cluster") as error:
        call_command("guarded")
    assert error.value.returncode == 2
    assert guarded.runs == []


def test_s19_a_child_that_the_body_forks_campaigns_like_any_process(project: Settings) -> None:
    """What its parent runs at the fork may be over long before it runs the command."""
    told: list[str] = []

    def body() -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                call_command("guarded_class")
            except BaseException as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(writer)
        with open(reader) as pipe:
            told.append(pipe.read())

    guarded_class.body[0] = body
    call_command("guarded_class")
    [said] = told
    assert said.startswith("Not run: ")
    assert said.endswith(f"(pid {os.getpid()}) leads the election 'command:guarded_class'")


def test_help_and_options_are_unchanged(project: Settings) -> None:
    parser = load_command_class("tests.commands", "guarded").create_parser("manage.py", "guarded")
    assert "Help of the guarded command." in parser.format_help()
    assert "--option" in parser.format_help()
    assert load_command_class("tests.commands", "guarded").handle.__name__ == "handle"


def test_within_one_process_the_command_runs_in_one_thread_at_a_time(project: Settings) -> None:
    inside, end = threading.Event(), threading.Event()

    def body() -> None:
        inside.set()
        assert end.wait(LONG)

    guarded_class.body[0] = body
    first = threading.Thread(target=call_command, args=["guarded_class"])
    first.start()
    assert inside.wait(LONG)
    with pytest.raises(CommandError, match="in another thread"):
        call_command("guarded_class")
    end.set()
    first.join(LONG)


def test_in_a_candidates_process_the_election_goes_on_afterwards(project: Settings) -> None:
    elections["default"].start()
    assert elections["default"].wait_for_leadership(LONG)
    token = elections["default"].fencing_token
    call_command("guarded_default")
    assert elections["default"].fencing_token == token


def test_when_redis_cannot_be_asked_the_command_fails_with_2(project: Settings, own_server: RedisServer) -> None:
    project.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": own_server.url}}
    own_server.stop()
    with pytest.raises(CommandError, match=r"^Not run: LEADER_ELECTIONS") as error:
        call_command("guarded")
    assert error.value.returncode == 2
    assert guarded.runs == []


def interrupt(server: RedisServer) -> dict[str, Any]:
    """A body that is still at work when its lease is lost: what it saw, and how the command ended."""
    seen: dict[str, Any] = {}
    election = elections["command:guarded_class"]

    def body() -> None:
        seen["led"] = election.is_leader()
        server.freeze()
        try:
            for _ in range(2000):
                time.sleep(0.01)
        except LeadershipLost:
            seen["leads when interrupted"] = election.is_leader()
            raise
        finally:
            server.thaw()

    guarded_class.body[0] = body
    with pytest.raises(CommandError) as error:
        call_command("guarded_class")
    return {**seen, "error": str(error.value)}


EXPECTED = {
    "led": True,
    "leads when interrupted": True,
    "error": "Interrupted: LEADER_ELECTIONS['command:guarded_class']: the lease could not be kept",
}


@pytest.fixture
def frozen(project: Settings, own_server: RedisServer) -> RedisServer:
    project.CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": own_server.url}}
    project.LEADER_ELECTIONS = {"default": {**FAST, "LOCK_TTL": 3, "HEARTBEAT_INTERVAL": 0.5}}
    return own_server


def test_a_body_in_the_main_thread_is_interrupted_in_time(frozen: RedisServer) -> None:
    """Before its lease ends."""
    assert interrupt(frozen) == EXPECTED


def test_a_body_in_another_thread_is_interrupted_before_its_lease_has_ended(frozen: RedisServer) -> None:
    result: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: result.append(interrupt(frozen)))
    thread.start()
    thread.join(LONG)
    assert result == [EXPECTED]


@pytest.mark.parametrize("inner_ends", ["first", "last"])
@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_s01_an_outer_body_is_interrupted_although_it_catches_the_inner_error(
    frozen: RedisServer, settings: Settings, where: str, inner_ends: str
) -> None:
    """Both leases end, about at the same time, and each interruption belongs to one body."""
    long, short = {**FAST, "HEARTBEAT_INTERVAL": 0.5, "LOCK_TTL": 4}, {**FAST, "HEARTBEAT_INTERVAL": 0.5, "LOCK_TTL": 3}
    first = inner_ends == "first"
    settings.LEADER_ELECTIONS = {
        "default": long,
        "command:guarded_class": long if first else short,
        "command:guarded_inner": short if first else long,
    }
    seen: list[str] = []

    def work(name: str) -> None:
        frozen.freeze()
        try:
            for _ in range(2000):
                time.sleep(0.01)
            seen.append(f"{name} worked on")
        except LeadershipLost:
            seen.append(f"{name} interrupted")
            raise

    def outer() -> None:
        with suppress(Exception):
            call_command("guarded_inner")
        work("outer")

    def run() -> None:
        try:
            call_command("guarded_class")
        except CommandError as error:
            seen.append(str(error))
        finally:
            frozen.thaw()

    guarded_class.body[0], guarded_inner.body[0] = outer, lambda: work("inner")
    if where == "main thread":
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(LONG)
    assert seen[0] == "inner interrupted"
    assert seen[1:-1] in ([], ["outer interrupted"]), (
        "the outer one may be due before the inner one has come to its end"
    )
    assert seen[-1] == "Interrupted: LEADER_ELECTIONS['command:guarded_class']: the lease could not be kept"


@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_an_inner_body_that_swallows_the_interruption_keeps_it_from_no_other(project: Settings, where: str) -> None:
    seen: list[str] = []

    def inner() -> None:
        try:
            elections["command:guarded_class"].resign()
            eventually(lambda: False)
        except BaseException as error:
            seen.append(f"inner: {type(error).__name__}")

    def outer() -> None:
        call_command("guarded_inner")
        seen.append("the outer one goes on")

    def run() -> None:
        with pytest.raises(CommandError, match=r"Interrupted: .*guarded_class"):
            call_command("guarded_class")
        seen.append("end")

    guarded_class.body[0], guarded_inner.body[0] = outer, inner
    if where == "main thread":
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(LONG)
    assert seen == ["inner: LeadershipLost", "end"]


def test_a_command_that_calls_one_of_its_own_election_runs_it(project: Settings) -> None:
    inner, outer = Nested("inner"), Nested("outer")
    outer.body = lambda: call_command(inner)
    inner.body = lambda: elections["nested"].is_leader()
    project.LEADER_ELECTIONS = {"default": dict(FAST), "nested": dict(FAST)}
    call_command(outer)
    assert (outer.result, inner.result) == ("None", "True")
    assert not elections["nested"].running
    outer.body = lambda: elections["nested"].resign() and eventually(lambda: False)
    inner.body = lambda: call_command(outer)
    with pytest.raises(CommandError, match="Interrupted"):
        call_command(inner)
    assert not elections["nested"].running


def test_a_command_around_one_that_waits_to_lead_is_interrupted(project: Settings, some_server: RedisServer) -> None:
    leader = other(some_server, "default")

    def outer() -> None:
        threading.Timer(0.3, elections["command:guarded_class"].resign).start()
        call_command("guarded_default")  # a hot standby

    guarded_class.body[0] = outer
    with pytest.raises(CommandError, match=r"Interrupted: .*guarded_class"):
        call_command("guarded_class")
    assert not elections["default"].running
    leader.stop()


def stop_by_itself(number: int, frame: object) -> None:
    raise SystemExit


@pytest.mark.parametrize("swallowed", [True, False])
@pytest.mark.parametrize("handler", [None, stop_by_itself])
def test_a_body_that_seems_done_after_its_lease_was_lost_fails(
    frozen: RedisServer, handler: Any, swallowed: bool
) -> None:
    """It swallows the interruption, or a handler of its own has got the signal, as that of Celery beat."""
    before, seen = signal.getsignal(signal.SIGINT), list[str]()

    def body() -> None:
        if handler:
            signal.signal(signal.SIGINT, handler)
        frozen.freeze()
        try:
            eventually(lambda: False)
        except BaseException as error:
            seen.append(type(error).__name__)
            if not swallowed:
                raise SystemExit from error
        finally:
            frozen.thaw()

    guarded_class.body[0] = body
    try:
        with pytest.raises(CommandError, match=r"Interrupted: .*: the lease could not be kept") as error:
            call_command("guarded_class")
        assert error.value.returncode == 1
        assert signal.getsignal(signal.SIGINT) is (handler or before)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["SystemExit" if handler else "LeadershipLost"]


def test_an_interrupted_job_is_not_held_back(project: Settings) -> None:
    def body() -> None:
        elections["command:guarded_class"].resign()
        eventually(lambda: False)

    guarded_class.body[0] = body
    with pytest.raises(CommandError, match="Interrupted"):
        call_command("guarded_class")
    guarded_class.body[0] = lambda: None
    call_command("guarded_class")


def test_a_handler_of_sigint_that_the_body_leaves_behind_stays(project: Settings) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        guarded_class.body[0] = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        call_command("guarded_class")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_with_continue_the_body_goes_on(frozen: RedisServer) -> None:
    ended = []

    def body() -> None:
        frozen.freeze()
        eventually(lambda: not elections["default"].is_leader())
        frozen.thaw()
        ended.append(True)

    guarded_class.body[0] = body
    call_command("guarded_default")
    assert ended == [True]


def test_s19_a_body_is_not_interrupted_in_a_child_forked_in_c(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under gevent its watcher goes on there, too, and sees no lease; otherwise there is none to wait for."""
    election: Any = elections["default"]
    election.start()
    assert election.wait_for_leadership(LONG)
    deadline, ended = election.grant.deadline, []
    left, before = LONG, set(threading.enumerate())
    monkeypatch.setattr(type(election.grant), "deadline", property(lambda grant: clock.now() + left))

    def the_watcher() -> threading.Thread:
        watchers = [thread for thread in set(threading.enumerate()) - before if thread.name.endswith(" interrupt")]
        assert len(watchers) == 1
        return watchers[0]

    def body() -> None:
        nonlocal left
        watcher = the_watcher()
        with monkeypatch.context() as patch:
            patch.setattr(guard, "os", SimpleNamespace(getpid=lambda: -1))  # nobody else is in a child
            left = 0.0
            watcher.join(LONG)
        assert not watcher.is_alive()
        ended.append(deadline)

    with shielded():
        run_guarded(election, body)
    assert ended
    left = LONG
    with monkeypatch.context() as patch, shielded():

        def child() -> None:
            patch.setattr(the_watcher(), "join", None)
            patch.setattr(guard, "os", SimpleNamespace(getpid=lambda: -1))

        run_guarded(election, child)


def test_a_real_interrupt_reaches_the_body_as_ever(project: Settings) -> None:
    import _thread

    def body() -> None:
        _thread.interrupt_main()
        time.sleep(LONG)

    guarded_class.body[0] = body
    with pytest.raises(KeyboardInterrupt):
        call_command("guarded_class")
    assert not elections["command:guarded_class"].running


def test_interrupting_another_thread_leaves_nothing_behind_that_hangs_a_traced_process() -> None:
    script = """
import sys, threading
from django_leader import LeadershipLost
from django_leader.system.interruption import Scope, here

def trace(*args):
    return trace

def body():
    sys.settrace(trace)
    thread, scope = here(), Scope(lambda: 0.0)
    def end():
        if due:
            other = threading.Thread(target=thread.interrupt, args=[scope], kwargs={"urgent": True})
            other.start()
            other.join()
    try:
        thread.run(end, scope)
    except LeadershipLost:
        pass
    print("went on", sum(len(str(number)) for number in range(1000)), flush=True)

for due in (False, True):
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "went on 2890\n" * 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"wait": "5"}, TypeError, "wait is '5'"),
        ({"wait": True}, TypeError, "wait is True"),
        ({"wait": -1}, ValueError, "wait is -1"),
        ({"wait": float("nan")}, ValueError, "wait is nan"),
        ({"wait": float("inf")}, ValueError, "wait is inf"),
        ({"hold": None}, TypeError, "hold is None"),
        ({"hold": -0.1}, ValueError, "hold is -0.1"),
        ({"exit_code": "3"}, TypeError, "exit_code '3'"),
        ({"election": 5}, TypeError, "election is 5"),
        ({"on_loss": "stop"}, ValueError, "on_loss is 'stop'; use 'interrupt' or 'continue'"),
    ],
)
def test_bad_arguments_are_refused_where_they_are_written(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        leader_required(**arguments)


def plain(name: str = "x") -> None:
    """A function outside of a class, as a framework's own command, task or view is."""


def registered(function: Any) -> Any:
    """Keep the function as django-typer's ``@command()`` does: in what an attribute of it calls."""
    function.register = lambda: function
    return function


class Methods:
    def method(self) -> None: ...

    async def coroutine(self) -> None: ...

    def generator(self) -> Iterator[None]:
        yield

    async def asynchronous_generator(self) -> AsyncIterator[None]:
        yield

    @registered
    def kept(self) -> None: ...

    def by_name(*, self: Any) -> None: ...


class WithStatic(BaseCommand):
    @staticmethod
    def handle(*args: Any, **options: Any) -> None: ...


class WithCoroutine(BaseCommand):
    async def handle(self, *args: Any, **options: Any) -> None: ...  # type: ignore[override]


class WithoutHandle(BaseCommand):
    pass


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (int, "it is no subclass of BaseCommand"),
        (5, "it is an object of int"),
        (print, "it is an object of builtin_function_or_method"),
        (plain, "it is a function outside of a class"),
        (functools.partial(plain, "y"), "it is an object of functools.partial"),
        (functools.partial(Methods.method), "it is an object of functools.partial"),
        (functools.partialmethod(Methods.method), "it is an object of functools.partialmethod"),
        (staticmethod(plain), "a staticmethod is not called with the command"),
        (
            classmethod(Methods.method),  # type: ignore[arg-type]
            "a classmethod is not called with the command",
        ),
        (property(plain), "it is an object of property"),
        (mock.MagicMock(), "it is an object of unittest.mock.MagicMock"),
        (Methods().method, "it is bound to an object"),
        (Methods.coroutine, "it is a coroutine function"),
        (Methods.generator, "it is a generator function"),
        (Methods.asynchronous_generator, "it is a generator function"),
        (Methods.kept, "its attribute register leads to the unguarded function"),
        (Methods.by_name, "it cannot be called with the command as its first argument"),
        (lambda: None, "it cannot be called with the command as its first argument"),
        (guarded.Command(), "it is an instance"),
        (WithStatic, "its handle: a staticmethod is not called with the command"),
        (WithCoroutine, "its handle: it is a coroutine function"),
        (WithoutHandle, "the class has no handle"),
    ],
)
@pytest.mark.parametrize("decorate", [leader_required, leader_required(wait=1)])
def test_what_nobody_would_call_guarded_is_refused_with_what_to_decorate(decorate: Any, target: Any, why: str) -> None:
    message = re.escape("is neither a command class nor its handle: " + why)
    with pytest.raises(TypeError, match=f"(?s){message}.* Decorate a subclass of BaseCommand, or its method"):
        decorate(target)


@pytest.mark.parametrize("decorators", ["@leader_required\n@click.command()", "@click.command()\n@leader_required"])
@pytest.mark.parametrize("parameters", ["", "name='x'"])
def test_a_command_of_django_click_is_refused_in_either_order(
    decorators: str, parameters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("nightly")
    monkeypatch.setitem(sys.modules, "nightly", module)
    imports = "import djclick as click\nfrom django_leader import leader_required"
    source = f"{imports}\n{decorators}\ndef command({parameters}): ..."
    with pytest.raises(TypeError, match="Decorate a subclass of BaseCommand"):
        exec(source, vars(module))


def from_a_module(self: BaseCommand, *args: Any, **options: Any) -> str:
    return "from a module"


def unnamed(function: Callable[..., str]) -> Callable[..., str]:
    return lambda *args, **options: function(*args, **options)


async def awaited(self: BaseCommand, *args: Any, **options: Any) -> str:
    return "awaited"


class Compiled:
    """A function that is compiled, and tells nothing of its signature."""

    __signature__ = "unknown"

    def __get__(self, instance: object, owner: object = None) -> Any:
        raise NotImplementedError

    def __call__(self, command: BaseCommand, **options: Any) -> str:
        return "compiled"


@pytest.mark.parametrize(
    ("handle", "result"),
    [
        (from_a_module, "from a module"),
        (unnamed(from_a_module), "from a module"),
        (functools.lru_cache(from_a_module), "from a module"),
        (async_to_sync(awaited), "awaited"),
        (Compiled(), "compiled"),
    ],
)
def test_whatever_else_works_as_a_method_is_guarded(handle: Any, result: str) -> None:
    command: Any = type("Command", (BaseCommand,), {"handle": leader_required(handle, election="default")})
    for scope, expected in ((leading(), result), (following(), None)):
        with scope:
            assert command(stderr=StringIO()).handle() == expected


def test_a_guarded_method_of_no_command_raises_and_does_not_run() -> None:
    """For example one of a view."""

    class View:
        @leader_required
        def get(self, *args: Any, **kwargs: Any) -> None:
            raise AssertionError("unguarded")

    with leading(), pytest.raises(TypeError, match=r"get .* was called with <.*View .*>, which is no command"):
        View().get()


@pytest.mark.parametrize(("verbosity", "said"), [(0, 0), (1, 1), (2, 1), (3, 1)])
def test_with_verbosity_0_nothing_is_said_where_another_leads(verbosity: int, said: int) -> None:
    out, err = StringIO(), StringIO()
    with following("command:guarded"):
        call_command("guarded", verbosity=verbosity, stdout=out, stderr=err)
    assert (out.getvalue(), len(err.getvalue().splitlines())) == ("", said)
    with following("command:guarded_class"), pytest.raises(CommandError) as error:
        call_command("guarded_class", verbosity=verbosity)
    assert error.value.returncode == 3


def test_a_command_is_decorated_once() -> None:
    class Command(BaseCommand):
        @leader_required
        def handle(self, *args: Any, **options: Any) -> None: ...

    with pytest.raises(TypeError, match="not both"):
        leader_required(Command)
