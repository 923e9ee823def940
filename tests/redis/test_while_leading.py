"""``while_leading``: what is entered at the beginning of a term is left at its end, and never both at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection, LeaderError
from django_leader.runtime import work
from django_leader.runtime.callbacks import call_logged
from django_leader.runtime.listeners import Listeners, TermCalls
from django_leader.runtime.work import Work
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.01, "quarantine": 0}
Make = Callable[..., LeaderElection]


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    """Makes elections on a real server, and stops them."""
    made: list[LeaderElection] = []

    def make(**options: Any) -> LeaderElection:
        made.append(LeaderElection(redis.Redis(port=some_server.port), Config(**{**FAST, **options})))
        return made[-1]

    yield make
    for election in made:
        election.stop()


class Job:
    """Work with a beginning that takes 5 ms; it notes what happens to it, with the token, and in which thread."""

    def __init__(self, election: LeaderElection, seconds: float = 0.005) -> None:
        self.log: list[tuple[str, int]] = []
        self.threads: list[int] = []
        self.election, self.seconds, self.running = election, seconds, False

    def _note(self, what: str, token: int) -> None:
        self.log.append((what, token))
        self.threads.append(threading.get_ident())

    @contextmanager
    def sync(self, token: int) -> Iterator[None]:
        self._note("starts", token)
        time.sleep(self.seconds)
        self.running = True
        self._note("started", token)
        yield
        self._note("stops", token)
        self.running = False
        self._note("stopped", token)

    @asynccontextmanager
    async def asynchronous(self, token: int) -> AsyncIterator[None]:
        self._note("starts", token)
        await asyncio.sleep(self.seconds)
        self.running = True
        self._note("started", token)
        yield
        self._note("stops", token)
        await asyncio.sleep(0)
        self.running = False
        self._note("stopped", token)


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_s16_work_that_takes_time_to_start_never_outlives_its_term(make: Make, kind: str) -> None:
    """A term that ends while the work starts: with a pair of callbacks the start would have the last word."""
    election = make()
    job = Job(election)
    election.while_leading(getattr(job, kind))
    for _ in range(20):
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        election.stop()
        assert not job.running
    tokens = [token for what, token in job.log if what == "starts"]
    assert job.log == [(what, token) for token in tokens for what in ("starts", "started", "stops", "stopped")]
    assert tokens == sorted(set(tokens))
    assert tokens, "a term that is over before its work starts has none"
    assert [job.threads[i] for i in range(0, len(job.threads), 4)] == job.threads[3::4], "both ends in one thread"


def test_the_way_it_was_leaves_the_work_running(make: Make) -> None:
    """Callbacks: the loss is announced though the gain callback has not returned."""
    election, log = make(), list[str]()

    @election.on_become_leader
    def start() -> None:
        time.sleep(0.05)
        log.append("started")

    election.on_lose_leadership(lambda: log.append("stopped"))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    eventually(lambda: len(log) == 2)
    assert log == ["stopped", "started"]


def test_the_lease_is_kept_until_the_work_has_ended(make: Make) -> None:
    election, other, go, asked = make(instance_id="first"), make(instance_id="second"), threading.Event(), list[str]()

    @election.while_leading
    @contextmanager
    def work(token: int) -> Iterator[None]:
        yield
        assert not election.is_leader(), "turned false first"
        asked.append(other.get_leader_id())
        assert go.wait(GENEROUS)
        asked.append(other.get_leader_id())

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    other.start()
    stopping = threading.Thread(target=election.stop)
    stopping.start()
    eventually(lambda: asked)
    assert not other.is_leader()
    go.set()
    assert other.wait_for_leadership(GENEROUS)
    stopping.join(GENEROUS)
    assert asked == ["first", "first"]


def test_work_is_told_of_the_end_before_the_loss_callbacks_run(make: Make) -> None:
    election, log = make(), list[str]()
    entered, left = threading.Event(), threading.Event()

    @election.while_leading
    @contextmanager
    def work(token: int) -> Iterator[None]:
        entered.set()
        yield
        left.set()

    election.on_lose_leadership(lambda: log.append(f"left: {left.wait(GENEROUS)}"))
    election.start()
    assert entered.wait(GENEROUS)
    election.stop()
    assert log == ["left: True"]


@pytest.mark.parametrize("kind", ["enter", "aenter", "factory", "no manager", "coroutine"])
def test_work_that_does_not_start_ends_the_term_and_is_not_ended(
    make: Make, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    election, log = make(retry_interval=0.3), list[str]()

    class Fails:
        def __enter__(self) -> None:
            raise SystemExit("cannot start")

        def __exit__(self, *error: object) -> None:
            log.append("left")

    class AsyncFails:
        async def __aenter__(self) -> None:
            raise RuntimeError("cannot start")

        async def __aexit__(self, *error: object) -> None:
            log.append("left")

    async def no_factory(token: int) -> None: ...

    def raises(token: int) -> Any:
        raise RuntimeError("cannot start")

    factories: dict[str, Any] = {
        "enter": lambda token: Fails(),
        "aenter": lambda token: AsyncFails(),
        "factory": raises,
        "no manager": lambda token: None,
        "coroutine": no_factory,
    }
    election.while_leading(factories[kind])
    election.on_lose_leadership(lambda: log.append("lost"))
    election.start()
    eventually(lambda: "lost" in log)
    eventually(lambda: "callback-failed" in [event.kind for event in election.history()])
    election.stop()
    assert "left" not in log
    expected = "cannot start" if kind in ("enter", "aenter", "factory") else "which is no context manager"
    assert expected in caplog.text


def test_work_that_raises_when_it_is_left_is_logged_and_ends_nothing(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    election, entered = make(), threading.Event()

    @election.while_leading
    @contextmanager
    def work(token: int) -> Iterator[None]:
        entered.set()
        yield
        raise RuntimeError("cannot stop")

    for _ in range(2):
        entered.clear()
        election.start()
        assert entered.wait(GENEROUS)
        election.stop()
    assert election.get_leader_id() == ""
    eventually(lambda: caplog.text.count("cannot stop") >= 2)


def test_a_task_that_fails_ends_the_term(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    election, reasons = make(retry_interval=0.3), list[str]()

    @election.while_leading
    @asynccontextmanager
    async def work(token: int) -> AsyncIterator[None]:
        body = asyncio.current_task()
        assert body
        asyncio.get_running_loop().call_later(0.01, body.cancel)
        with suppress(asyncio.CancelledError):  # as a manager does that takes the exception for its own
            yield

    election.listen(lambda token: None, lambda token, reason: reasons.append(reason), lambda old, new: None)
    election.start()
    eventually(lambda: "callback-failed" in reasons)
    eventually(lambda: "ended before its term did" in caplog.text)


def test_work_whose_thread_cannot_be_started_ends_the_term(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It delays nothing else."""
    election, log, real = make(retry_interval=0.1), list[str](), threading.Thread.start
    election.on_become_leader(lambda: log.append("gain"))
    refused: list[bool] = []

    def start(thread: threading.Thread) -> None:
        # That of the first callback is started before the term, with the watcher's.
        if thread.name.endswith(" gain") and election.is_leader() and not refused:
            refused.append(True)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    job = Job(election)
    election.while_leading(job.sync)
    election.start()
    eventually(lambda: job.running, "in the next term")
    assert refused
    assert [event.kind for event in election.history()][:3] == ["elected", "callback-failed", "elected"]


def test_a_generator_function_is_refused_with_what_to_do(make: Make) -> None:
    election = make()

    def generator(token: int) -> Iterator[None]:
        yield

    async def agenerator(token: int) -> AsyncIterator[None]:
        yield

    for wrong in (generator, agenerator, None):
        with pytest.raises(TypeError, match=r"is no function that returns a context manager; put @contextlib"):
            election.while_leading(wrong)  # type: ignore[type-var]


def test_work_that_does_not_end_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.01)
    entered, go = threading.Event(), threading.Event()

    @contextmanager
    def slow(token: int) -> Iterator[None]:
        entered.set()
        yield
        assert go.wait(GENEROUS)

    listeners = Listeners(lambda: None)
    listeners.works.append(slow)
    term = TermCalls(listeners, 1, "test")
    running = threading.Thread(target=term.gains[0])
    running.start()
    assert entered.wait(GENEROUS)
    end, wait = term.losses("resigned")
    end()
    waiting = threading.Thread(target=wait)
    with caplog.at_level(logging.WARNING):
        waiting.start()
        eventually(lambda: f"test: work of while_leading ({slow!r}) has not ended" in caplog.text)
    go.set()
    for thread in (running, waiting):
        thread.join(GENEROUS)
        assert not thread.is_alive()


def test_a_term_that_is_over_before_its_work_has_begun_has_none() -> None:
    def factory(token: int) -> Any:
        raise LeaderError("it is over")

    for term in (Work(factory, 1), Work(lambda token: AsyncNothing(), 1)):
        term.end()
        assert term.run() is None
    listeners = Listeners(lambda: None)
    calls = TermCalls(listeners, 1, "test")
    listeners.works.append(factory)
    assert listeners.tells_loss
    assert calls.losses("resigned") == [], "it was registered behind the beginning of the term"


def test_work_whose_event_loop_cannot_be_made_ends_the_term(some_server: RedisServer) -> None:
    """It delays nothing else. ``asyncio.run`` needs two descriptors, and may fail before the first step of the
    coroutine.
    """
    refused: list[bool] = []

    def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
        if not refused:
            refused.append(True)
            raise OSError(24, "Too many open files")
        asyncio.run(coroutine)

    options: dict[str, Any] = {**FAST, "retry_interval": 0.1}
    election = LeaderElection(redis.Redis(port=some_server.port), Config(**options), run_coroutine=run_coroutine)
    job = Job(election)
    election.while_leading(job.asynchronous)
    try:
        election.start()
        eventually(lambda: job.running, "in the next term")
    finally:
        election.stop()
    assert refused
    assert [what for what, _ in job.log] == ["starts", "started", "stops", "stopped"]


def test_work_has_ended_when_its_coroutine_has_or_could_not_begin() -> None:
    refused: list[bool] = []

    def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
        if not refused:
            refused.append(True)
            raise OSError(24, "Too many open files")
        asyncio.run(coroutine)

    entered, ended = threading.Event(), list[bool]()

    @asynccontextmanager
    async def factory(token: int) -> AsyncIterator[None]:
        entered.set()
        yield
        await asyncio.sleep(0.01)
        ended.append(True)

    listeners = Listeners(lambda: None, run_coroutine)
    listeners.works.append(factory)
    for expected in ([], [True]):
        term = TermCalls(listeners, 1, "test")
        running = threading.Thread(target=call_logged, args=(term.gains[0], "test"))
        running.start()
        end, wait = term.losses("resigned")
        eventually(lambda: entered.is_set() or not running.is_alive())  # noqa: B023
        end()
        wait()
        assert ended == expected
        running.join(GENEROUS)


class AsyncNothing:
    async def __aenter__(self) -> None:
        pytest.fail("it is over")

    async def __aexit__(self, *error: object) -> None: ...


def test_an_asynchronous_work_whose_term_ends_before_its_loop_runs() -> None:
    term = Work(lambda token: AsyncNothing(), 1)
    coroutine = term.run()
    assert coroutine
    term.end()
    asyncio.run(coroutine)
    term.end()  # its loop is no more
