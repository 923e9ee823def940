"""Event loops: nothing here blocks one."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from django.core.handlers.asgi import ASGIHandler
from django.test import AsyncClient
from pytest_django import Settings

from django_leader import (
    LeaderError,
    RedisUnavailable,
    became_leader,
    elections,
    handler,
    is_leader,
    lost_leadership,
)
from django_leader.asgi import Application, handing_over
from django_leader.protocol.config import Config
from django_leader.runtime import listeners
from django_leader.runtime.election import LeaderElection
from django_leader.runtime.listeners import run_coroutine
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually


def test_the_queries_can_be_awaited(project: Settings) -> None:
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(GENEROUS)

    async def ask() -> tuple[Any, ...]:
        answers = election.aget_leader_info(), election.aget_leader_id(), election.astatus(), election.ahistory(1)
        return tuple(await asyncio.gather(*answers))

    info, leader, status, [event] = asyncio.run(ask())
    assert info
    assert info.instance_id == leader == election.instance_id
    assert status.fencing_token == election.fencing_token
    assert event.kind == "elected"
    asyncio.run(election.astop())
    assert not election.running


def test_an_awaited_query_says_that_redis_is_away() -> None:
    election = LeaderElection(redis.Redis(port=1), Config())
    with pytest.raises(RedisUnavailable, match=r"LEADER_ELECTIONS\['default'\]"):
        asyncio.run(election.aget_leader_info())


def test_a_query_does_not_hold_up_the_loop(own_server: RedisServer) -> None:
    """While Redis is frozen the loop goes round; the query ends with its own timeout."""
    election = LeaderElection(own_server.client(), Config(lock_ttl=3, heartbeat_interval=1))
    own_server.freeze()
    rounds = 0

    async def ask() -> None:
        nonlocal rounds
        query = asyncio.create_task(election.astatus())
        while not query.done():
            rounds += 1
            await asyncio.sleep(0.01)
        with pytest.raises(RedisUnavailable):
            await query

    asyncio.run(ask())
    own_server.thaw()
    assert rounds > 10


def test_async_receivers_are_called_in_pairs(project: Settings) -> None:
    told: list[tuple[str, str]] = []

    async def gained(using: str, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        told.append(("gained", using))

    async def lost(using: str, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        told.append(("lost", using))

    became_leader.connect(gained)
    lost_leadership.connect(lost)
    try:
        elections["default"].start()
        eventually(lambda: told)
        elections["default"].stop()
        assert told == [("gained", "default"), ("lost", "default")]
    finally:
        became_leader.disconnect(gained)
        lost_leadership.disconnect(lost)


def test_coroutine_functions_as_callbacks_run_in_a_loop_of_their_own(project: Settings) -> None:
    election, told = elections["default"], list[str]()

    @election.on_become_leader
    async def work() -> None:
        told.append("began")
        while is_leader():
            await asyncio.sleep(0.01)
        told.append("ended")

    @election.on_lose_leadership
    async def lost() -> None:
        await asyncio.sleep(0)
        told.append("lost")

    election.start()
    eventually(lambda: told)
    election.stop()
    eventually(lambda: sorted(told) == ["began", "ended", "lost"])


def test_an_object_whose_call_is_a_coroutine_function_runs_too(project: Settings) -> None:
    told: list[str] = []

    class Work:
        async def __call__(self) -> None:
            told.append("began")

    elections["default"].on_become_leader(Work())
    elections["default"].start()
    eventually(lambda: told)


def test_a_coroutine_function_that_raises_ends_the_term(project: Settings) -> None:
    election = elections["default"]

    @election.on_become_leader
    async def work() -> None:
        raise RuntimeError("this callback fails")

    election.start()
    eventually(lambda: any(event.kind == "callback-failed" for event in election.history()))


def test_no_coroutine_runs_where_greenlets_share_a_thread() -> None:
    """While one ran, Django refused every database call of every request."""
    pytest.importorskip("gevent", reason="gevent is not installed")
    done: Any = subprocess.run(
        [sys.executable, "-m", "tests.support.gevent_coroutines"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    found = json.loads(done.stdout)
    assert (found["database"], found["ran"], found["running"]) == ("works", [], False), done.stderr
    refusal = "coroutines cannot run under gevent or eventlet"
    for what in ("a gain callback raised an exception", "of became_leader raised an exception"):
        assert [line for line in found["said"] if what in line and refusal in line], found["said"]
    assert "never awaited" not in done.stderr


def test_a_coroutine_is_no_job_where_greenlets_share_a_thread() -> None:
    """That is said once, and not at each slot."""
    pytest.importorskip("gevent", reason="gevent is not installed")
    command = [sys.executable, "-m", "tests.support.gevent_jobs"]
    done: Any = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=90)
    found = json.loads(done.stdout)
    assert (set(found["ran"]), "django_leader.E024" in found["checks"]) == ({"plain"}, True), done.stderr
    [line] = [line for line in found["said"] if line.startswith("ERROR")]
    assert "these jobs are not run in this process, because they are coroutine functions: coroutine." in line


@pytest.mark.parametrize("run", [run_coroutine, handler._run_coroutine])
def test_a_coroutine_that_cannot_run_is_refused_and_closed(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], None]
) -> None:
    monkeypatch.setattr(listeners, "green", lambda: True)
    coroutine = asyncio.sleep(0)
    with pytest.raises(LeaderError, match=r"share one thread.*give the election a function, or a context manager"):
        run(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.django_db
def test_an_async_view_asks_directly(project: Settings, settings: Settings) -> None:
    settings.ROOT_URLCONF = "tests.django.async_urls"
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)

    async def get() -> Any:
        return (await AsyncClient().get("/")).json()

    leader = elections["default"].instance_id
    assert asyncio.run(get()) == {"is_leader": True, "leader": leader, "blocked": False}


def lifespan(application: Application, *received: str) -> list[str]:
    """What an ASGI server hears when it says this."""
    messages, sent = [{"type": f"lifespan.{name}"} for name in received], list[str]()

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def serve() -> None:
        await handing_over(application)({"type": "lifespan"}, receive, send)

    asyncio.run(serve())
    assert not messages
    return sent


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_lifespan_hands_over_for_an_application_that_knows_none(project: Settings) -> None:
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    assert lifespan(ASGIHandler(), "startup", "shutdown") == COMPLETE
    assert not elections["default"].running
    assert elections["default"].get_leader_info() is None
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS), "the process goes on, and may be a candidate again"


def test_lifespan_is_answered_for_an_application_that_just_returns() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        pass

    assert lifespan(application, "startup", "shutdown") == COMPLETE


def test_lifespan_hands_over_though_the_pool_of_the_loop_is_busy(project: Settings) -> None:
    elections["default"].start()
    assert elections["default"].wait_for_leadership(GENEROUS)
    over = threading.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        work = loop.run_in_executor(None, over.wait, GENEROUS)
        await receive()
        over.set()
        assert await work, "it waited for us, and we for it"

    assert lifespan(application, "shutdown") == []
    assert not elections["default"].running


def test_lifespan_goes_on_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert lifespan(ASGIHandler(), "startup", "shutdown") == COMPLETE


def test_lifespan_hands_over_before_an_application_that_knows_it_ends(project: Settings) -> None:
    elections["default"].start()
    running: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            message = await receive()
            running.append(elections["default"].running)
            await send({"type": f"{message['type']}.complete"})

    assert lifespan(application, "startup", "shutdown") == COMPLETE
    assert running == [True, False]


def test_an_application_whose_startup_fails_says_so_itself() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        lifespan(application, "startup")


def test_requests_are_the_applications() -> None:
    scopes: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope["type"])

    async def serve() -> None:
        await handing_over(application)({"type": "http"}, None, None)

    asyncio.run(serve())
    assert scopes == ["http"]
