"""Receivers and callbacks: each is told whatever another does, leaves no database connection, and waits for nothing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections
from django.db.utils import ConnectionHandler
from pytest_django import Settings

from django_leader import LeaderError, became_leader, elections, leader_changed, lost_leadership
from django_leader.handler import _run_coroutine
from django_leader.runtime.election import LeaderElection
from django_leader.system import clock
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually

SIGNALS = {"became": became_leader, "lost": lost_leadership, "changed": leader_changed}
Connect = Callable[[str, Any], None]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects receivers by the name of their signal, and disconnects them."""
    connected: list[tuple[str, Any]] = []

    def connect(name: str, receiver: Any) -> None:
        SIGNALS[name].connect(receiver, weak=False)
        connected.append((name, receiver))

    yield connect
    elections.reset()
    for name, receiver in connected:
        SIGNALS[name].disconnect(receiver)


ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_every_receiver_is_told_whatever_another_raises(
    project: Settings, connect: Connect, caplog: pytest.LogCaptureFixture, end: type[BaseException], asynchronous: bool
) -> None:
    told: list[str] = []

    def raises(**kwargs: Any) -> None:
        raise end("a receiver")

    async def raises_async(**kwargs: Any) -> None:
        raise end("a receiver")

    for name in SIGNALS:
        connect(name, raises_async if asynchronous else raises)

        def tell(name: str = name, **kwargs: Any) -> None:
            told.append(name)

        async def tell_async(name: str = name, **kwargs: Any) -> None:
            await asyncio.sleep(0)
            told.append(f"{name} async")

        connect(name, tell)
        connect(name, tell_async)
    elections["default"].start()
    eventually(lambda: "lost async" in told and "changed async" in told, f"only {told}")
    elections["default"].stop()
    others = [name for name in told if not name.startswith("changed")]
    assert others == ["became", "became async", "lost", "lost async"] * (len(others) // 4)
    assert elections["default"].history(10)[-2].kind == "callback-failed"
    for name in ("became_leader", "lost_leadership", "leader_changed"):
        eventually(lambda: f"of {name} raised an exception" in caplog.text, f"{name} is logged")  # noqa: B023


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_receiver_that_raises_is_logged_once(
    project: Settings, connect: Connect, caplog: pytest.LogCaptureFixture, name: str, asynchronous: bool
) -> None:
    """With the election, the receiver and the traceback."""
    called: list[Any] = []

    def fails(**kwargs: Any) -> None:
        called.append(kwargs)
        raise ValueError("a receiver")

    async def fails_async(**kwargs: Any) -> None:
        fails(**kwargs)

    connect(name, receiver := fails_async if asynchronous else fails)
    gained = threading.Event()
    elections["default"].on_become_leader(gained.set)
    elections["default"].start()
    assert gained.wait(GENEROUS), "a term that ends before anybody has heard of it has no loss to report"
    elections["default"].stop()

    def logged() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.levelno == logging.ERROR]

    errors = eventually(lambda: called and len(logged()) >= len(called) and logged())
    said = f"LEADER_ELECTIONS['default']: the receiver {receiver!r} of {SIGNALS[name].name} raised an exception"
    assert [record.getMessage() for record in errors] == [said] * len(called)
    assert {type(record.exc_info[1]) for record in errors if record.exc_info} == {ValueError}


@pytest.mark.parametrize("how", ["callback", "receiver"])
def test_a_loss_comes_with_its_gain_though_the_gain_exits(project: Settings, connect: Connect, how: str) -> None:
    told: list[str] = []

    def exits(**kwargs: Any) -> None:
        sys.exit("cannot work")

    if how == "receiver":
        connect("became", exits)
    else:
        elections["default"].on_become_leader(exits)
    connect("became", lambda **kwargs: told.append("gain"))
    connect("lost", lambda reason, **kwargs: told.append(reason))
    elections["default"].start()
    eventually(lambda: "callback-failed" in told)
    elections["default"].stop()
    assert told[:2] == ["gain", "callback-failed"]


def open_files(path: Path) -> int:
    """How often this process has ``path`` open."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
        except OSError:
            continue
    return found


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any) -> Iterator[Path]:
    """A database of the test's own, which is a file."""
    with warnings.catch_warnings():  # about connections of tests before, which Python 3.13 warns of when it frees them
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    path = tmp_path / "database.sqlite3"
    handler = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}})
    monkeypatch.setattr("django_leader.handler.connections", handler)
    monkeypatch.setattr(sys.modules[__name__], "connections", handler)
    with django_db_blocker.unblock():
        yield path
        elections.reset()


def query() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")


async def aquery(**kwargs: Any) -> None:
    """As ``acount()`` and the like do."""
    await sync_to_async(query)()


@pytest.mark.parametrize("how", ["callback", "receiver", "work", "awork"])
def test_no_database_connection_stays_open_behind_what_is_called(
    project: Settings, connect: Connect, database: Path, how: str
) -> None:
    election, used = elections["default"], list[int]()

    async def use(**kwargs: Any) -> None:
        await aquery()
        used.append(open_files(database))

    if how == "callback":
        election.on_become_leader(use)
        election.on_lose_leadership(use)
    elif how == "receiver":
        connect("became", use)
        connect("lost", use)
        connect("changed", use)
    else:
        election.while_leading(AsyncUses(used, database) if how == "awork" else Uses(used, database))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: used)
    election.stop()
    eventually(lambda: len(used) >= 2)
    assert min(used) >= 1, "it has had one"
    eventually(lambda: open_files(database) == 0)


def test_what_a_coroutine_raised_is_told_though_its_database_thread_is_gone(database: Path) -> None:
    """At the end of the interpreter ``concurrent.futures`` takes nothing any more."""

    async def fails() -> None:
        await aquery()
        context: Any = SyncToAsync.thread_sensitive_context.get()
        SyncToAsync.context_to_thread_executor[context].shutdown()
        raise ValueError("the real one")

    with pytest.raises(ValueError, match="the real one"):
        _run_coroutine(fails())


class Uses:
    """Work that uses the database."""

    def __init__(self, used: list[int], database: Path) -> None:
        self.used, self.database = used, database

    def __call__(self, token: int) -> Uses:
        return self

    def __enter__(self) -> None:
        query()
        self.used.append(open_files(self.database))

    def __exit__(self, *error: object) -> None:
        query()
        self.used.append(open_files(self.database))


class AsyncUses:
    """The same in an event loop."""

    def __init__(self, used: list[int], database: Path) -> None:
        self.used, self.database = used, database

    def __call__(self, token: int) -> AsyncUses:
        return self

    async def __aenter__(self) -> None:
        await aquery()
        self.used.append(open_files(self.database))

    async def __aexit__(self, *error: object) -> None:
        await aquery()
        self.used.append(open_files(self.database))


def test_a_coroutine_callback_works_after_a_restart_of_its_database(
    project: Settings, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was broken in one term is not used in the next."""
    election, broken, ended = elections["default"], list[bool](), list[int]()

    @election.on_become_leader
    async def use() -> None:
        await aquery()
        await sync_to_async(lambda: connections["default"].connection.close())()  # as the server's restart does
        broken.append(True)

    election.on_lose_leadership(lambda: ended.append(1))
    for term in range(1, 4):
        election.start()
        eventually(lambda: len(broken) == term)  # noqa: B023
        election.stop()
        eventually(lambda: len(ended) == term)  # noqa: B023
    assert "callback-failed" not in [event.kind for event in election.history()]


def stop_and_start(election: LeaderElection) -> None:
    election.stop()
    election.start()


def stop_and_run(election: LeaderElection) -> None:
    election.stop()
    with pytest.raises(LeaderError, match="called by a callback or receiver of this election; call start"):
        election.run()


DOES: dict[str, Callable[[LeaderElection], Any]] = {
    "stop": lambda election: election.stop(),
    "resign": lambda election: election.resign(),
    "stop, start": stop_and_start,
    "wait": lambda election: (election.resign(), election.wait_for_leadership(None)),
    "run": stop_and_run,
}
ADOES: dict[str, Callable[[LeaderElection], Any]] = {
    "stop": lambda election: election.astop(),
    "in a thread": lambda election: asyncio.to_thread(election.stop),
    "sync_to_async": lambda election: sync_to_async(election.stop)(),
}
WHERE = ["became", "lost", "changed", "on_become_leader", "on_lose_leadership", "work"]


def register(election: LeaderElection, connect: Connect, where: str, function: Any) -> None:
    """Have ``function`` called by ``where``."""
    if where in SIGNALS:
        connect(where, function)
    elif where == "work":
        election.while_leading(Enters(function))
    else:
        getattr(election, where)(function)


class Enters:
    """Work that calls ``function`` when it begins."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, token: int) -> Any:
        return self if not inspect.iscoroutinefunction(self.function) else AsyncEnters(self.function)

    def __enter__(self) -> None:
        self.function()

    def __exit__(self, *error: object) -> None:
        pass


class AsyncEnters:
    """The same in an event loop."""

    def __init__(self, function: Any) -> None:
        self.function = function

    async def __aenter__(self) -> None:
        await self.function()

    async def __aexit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("does", DOES)
def test_what_is_called_in_a_callback_or_receiver_waits_for_nothing(
    project: Settings, connect: Connect, where: str, does: str
) -> None:
    project.LEADER_ELECTIONS = {"default": {"LOCK_TTL": 60, "RETRY_INTERVAL": 0.3, "QUARANTINE": 0}}
    election, took, errors = elections["default"], list[float](), list[BaseException]()

    def do(**kwargs: Any) -> None:
        if took:
            return
        took.append(clock.now())
        try:
            DOES[does](election)
        except BaseException as error:
            errors.append(error)
        took.append(clock.now())

    register(election, connect, where, do)
    election.start()
    if where in ("lost", "on_lose_leadership"):
        assert election.wait_for_leadership(GENEROUS)
        election.resign()
    eventually(lambda: len(took) == 2, "it has returned, long before the lease is over")
    assert errors == []
    if does in ("stop", "run"):
        eventually(lambda: not election.running, "the end follows")
        eventually(lambda: election.get_leader_id() == "")
    else:
        assert election.wait_for_leadership(GENEROUS), "it leads again"


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("does", ADOES)
def test_what_is_awaited_in_a_callback_or_receiver_waits_for_nothing(
    project: Settings, connect: Connect, where: str, does: str
) -> None:
    project.LEADER_ELECTIONS = {"default": {"LOCK_TTL": 60, "RETRY_INTERVAL": 0.3, "QUARANTINE": 0}}
    election, returned = elections["default"], threading.Event()

    async def do(**kwargs: Any) -> None:
        await ADOES[does](election)
        returned.set()

    register(election, connect, where, do)
    election.start()
    if where in ("lost", "on_lose_leadership"):
        assert election.wait_for_leadership(GENEROUS)
        election.resign()
    assert returned.wait(GENEROUS), "it has returned, long before the lease is over"
    eventually(lambda: not election.running, "the end follows")


def test_a_thread_that_a_callback_has_left_behind_waits_as_any_other(project: Settings) -> None:
    """Also where it has inherited the callback's context."""
    import contextvars

    election, go, stopped = elections["default"], threading.Event(), list[bool]()
    callbacks: list[threading.Thread] = []

    def stop_later() -> None:
        assert go.wait(GENEROUS)
        election.stop()
        stopped.append(election.running)

    @election.on_become_leader
    def begin() -> None:
        callbacks.append(threading.current_thread())
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=[stop_later], daemon=True).start()

    ended = threading.Event()
    election.on_lose_leadership(lambda: ended.wait(0.3))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: callbacks and not callbacks[0].is_alive())
    go.set()
    eventually(lambda: stopped)
    assert stopped == [False]


SCRIPT = """
import asyncio, sys, time
import django
from django.conf import settings

cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": sys.argv[1]}
settings.configure(
    SECRET_KEY="tests", INSTALLED_APPS=["django_leader"], CACHES={"default": cache},
    LEADER_ELECTIONS={"default": {"QUARANTINE": 0}},
)
django.setup()
from django_leader import became_leader, elections, lost_leadership

async def gained(**kwargs):
    await asyncio.sleep(0)
    print("gained", flush=True)

async def lost(**kwargs):
    await asyncio.sleep(0)
    print("lost", flush=True)

became_leader.connect(gained)
lost_leadership.connect(lost)
elections["default"].start()
assert elections["default"].wait_for_leadership(90)
"""


def test_coroutine_receivers_are_told_at_the_end_of_the_interpreter(some_server: RedisServer) -> None:
    """When no executor takes anything any more."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, some_server.url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "gained\nlost\n", done.stderr
