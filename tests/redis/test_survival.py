"""What is raised where, and the election goes on: exceptions in a row, and no thread for a while."""

from __future__ import annotations

import _thread
import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.protocol import machine
from django_leader.runtime.callbacks import TermDelivery
from django_leader.runtime.candidacy import Candidacy
from django_leader.runtime.diagnostics import Diagnostics
from django_leader.runtime.worker import Worker
from django_leader.system import clock
from django_leader.system.starts import Start, Starts, starts
from django_leader.system.threads import PAUSE
from django_leader.system.waker import Waker
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
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


class Exits(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise SystemExit("a broken filter")


@pytest.fixture
def broken_log() -> Iterator[Callable[[], None]]:
    """Has every line for the log raise what is no Exception, until the test ends."""
    logger, exits = logging.getLogger("django_leader"), Exits()
    yield lambda: logger.addFilter(exits)
    logger.removeFilter(exits)


@pytest.mark.parametrize("where", ["advice", "machine", "waker", "log", "turn"])
def test_s17_what_the_handling_of_an_exception_raises_ends_nothing_either(
    make: Make, monkeypatch: pytest.MonkeyPatch, broken_log: Callable[[], None], where: str
) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    raised: list[float] = []

    def fails(*args: Any, **options: Any) -> Any:
        raised.append(clock.now())
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_act", fails)
        if where == "advice":
            patch.setattr(Diagnostics, "failed", fails)
        elif where == "machine":
            patch.setattr(machine, "step", fails)
        elif where == "waker":
            patch.setattr(Waker, "wait", fails)
        elif where == "log":
            broken_log()
        else:
            patch.setattr(Worker, "_report_holder_death", fails)
            patch.setattr(Diagnostics, "turn_ended", fails)
        start = clock.now()
        eventually(lambda: clock.now() > start + 1.5 and len(raised) > 3)
        assert len(raised) <= 6 * (clock.now() - start) / PAUSE, "it spins"
    assert election.running
    assert election.wait_for_leadership(GENEROUS)


def once(real: Callable[..., Any], failed: list[bool]) -> Callable[..., Any]:
    """``real``, but that it raises the first time."""

    def fails_once(*args: Any, **options: Any) -> Any:
        if not failed:
            failed.append(True)
            raise MemoryError
        return real(*args, **options)

    return fails_once


def test_s16_a_term_that_could_not_be_announced_ends_and_another_follows(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    election, told, failed = make(), list[str](), list[bool]()
    election.on_become_leader(lambda: told.append("gain"))
    election.on_lose_leadership(lambda: told.append("loss"))
    before = set(threading.enumerate())
    monkeypatch.setattr(TermDelivery, "begin", once(TermDelivery.begin, failed))
    election.start()
    eventually(lambda: told)
    assert (told, failed) == (["gain"], [True])
    eventually(lambda: len([one for one in set(threading.enumerate()) - before if one.name.endswith(" term")]) == 1)
    assert [event.kind for event in election.history()] == ["elected", "callback-failed", "elected"]


@pytest.mark.parametrize("where", ["end", "_delivered", "_expired"])
def test_s16_a_loss_is_told_once_whatever_fails_on_the_way(
    make: Make, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    election, told, failed = make(lock_ttl=1.0, heartbeat_interval=0.2), list[str](), list[bool]()
    election.on_become_leader(lambda: told.append("gain"))
    election.on_lose_leadership(lambda: told.append("loss"))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: told)
    current = election._candidacy and election._candidacy.shared.announcer.current
    setattr(current, where, once(getattr(current, where), failed))
    if where == "_expired":
        hangs = threading.Event()  # the election thread, in a connect, say
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "_send", lambda *args, **options: hangs.wait(GENEROUS))
            eventually(lambda: "loss" in told)
        hangs.set()
    elif where == "end":
        with pytest.raises(MemoryError):
            election.resign()
    else:
        election.resign()
    eventually(lambda: len(told) >= 3)
    assert (told, failed) == (["gain", "loss", "gain"], [True])


def test_a_candidate_without_an_identity_of_its_process_participates(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of descriptors it cannot publish which process it is."""

    def fails(worker: Worker) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Worker, "begin", fails)
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)


class NoThreads:
    """Has the system refuse every thread whose name ends so, until it is told otherwise."""

    def __init__(self, patch: pytest.MonkeyPatch, ending: str = "") -> None:
        self.refused, self.refuses, real = list[str](), True, threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if self.refuses and thread.name.endswith(ending):
                self.refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            real(thread)

        patch.setattr(threading.Thread, "start", start)


def collected() -> bool:
    """Collect garbage, as happens in an application that does something."""
    gc.collect()
    return False


def test_s17_a_start_that_got_no_thread_succeeds_later_by_itself(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    election = make()
    threads = NoThreads(monkeypatch, "election")
    with caplog.at_level(logging.INFO):
        election.start()
        assert (election.running, election.is_leader()) == (True, False)
        eventually(lambda: collected() or len(threads.refused) > 3, "it is tried again")
        threads.refuses = False
        eventually(lambda: collected() or election.is_leader())
        eventually(lambda: "started because" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if "can't start" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("LEADER_ELECTIONS['default'] election: not started yet: can't start new thread.")
    eventually(lambda: starts._collected not in gc.callbacks)


def test_who_waits_for_leadership_has_the_thread_tried_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    election = make()
    threads = NoThreads(monkeypatch, "election")
    gc.disable()
    try:
        election.start()
        threads.refuses = False
        assert election.wait_for_leadership(GENEROUS)
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["stop", "ask_to_stop"])
def test_a_start_that_waits_for_a_thread_can_be_stopped(make: Make, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    election = make()
    threads = NoThreads(monkeypatch, "election")
    election.start()
    getattr(election, how)()
    assert not election.running
    threads.refuses = False
    collected()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert [thread.name for thread in threading.enumerate()].count(f"{election.label} election") == 1


def test_s17_a_candidate_without_threads_does_not_campaign_and_says_so_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    election, other = make(), make()
    election.on_lose_leadership(lambda: pytest.fail("a loss without a gain"))
    threads = NoThreads(monkeypatch, "term")
    election.start()
    eventually(lambda: len(threads.refused) > 2)
    assert not election.is_leader()
    assert caplog.text.count("cannot lead for now: can't start new thread") == 1
    assert election.history() == []
    threads.refuses = False
    assert election.wait_for_leadership(GENEROUS), "when there are threads again, it leads"
    election._listeners.on_loss.clear()
    assert not other.running


def test_a_change_of_leader_is_told_when_there_is_a_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    election, told = make(instance_id="me"), list[tuple[str, str]]()
    election.listen(lambda token: None, lambda token, reason: None, lambda old, new: told.append((old, new)))
    threads = NoThreads(monkeypatch, "news")
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: threads.refused)
    threads.refuses = False
    eventually(lambda: collected() or told)
    assert told == [("", "me")]


def test_at_the_end_of_the_interpreter_nothing_waits_for_a_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    own, start = Starts(), Start(lambda: None, "late")
    own.start(start)
    own.retry()
    assert own._waiting == []
    assert caplog.text == ""


def test_what_waits_for_a_thread_starts_in_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    own, ran = Starts(), list[int]()
    NoThreads(monkeypatch)
    start = Start(lambda: ran.append(1), "parent's")
    own.start(start)
    own.after_fork()
    assert own._waiting == []
    assert own._collected not in gc.callbacks
    own.start(start)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # a child of a fork in C, of which nobody has told us
    start.start()
    start._work()
    own.start(Start(lambda: None, "child's"))
    assert [waiting.name for waiting in own._waiting] == ["child's"]
    assert ran == []
    own.after_fork()


def test_a_signal_handler_that_raises_while_a_thread_starts_starts_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own, ran, real = Starts(), list[int](), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        real(thread)
        thread.join(GENEROUS)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            own.start(Start(lambda: ran.append(1), "interrupted"))
    for _ in itertools.repeat(None, 3):
        own._next_try = 0.0
        own.retry()
    eventually(lambda: own._waiting == [])
    assert ran == [1]


def test_no_thread_for_the_thread_that_starts_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    own, ran = Starts(), threading.Event()
    threads = NoThreads(monkeypatch)
    own.start(Start(ran.set, "late"))

    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        own._next_try = 0.0
        own.retry()
        assert own._next_try > clock.now(), "not at every garbage collection"
    own._next_try = 0.0
    own.retry()
    eventually(lambda: own._helped)
    own._help()  # another thread came by at the same time
    threads.refuses = False
    assert ran.wait(GENEROUS)
    eventually(lambda: own._waiting == [])


def test_a_successor_is_known_only_when_it_knows_what_its_predecessor_knew(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``stop()`` in between would reach it, and be overwritten."""
    election, known = make(), list[Any]()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    continue_as = Candidacy.continue_as

    def looked(last: Candidacy, new: Candidacy) -> None:
        known.append(election._candidacy is new)
        continue_as(last, new)

    monkeypatch.setattr(Candidacy, "continue_as", looked)
    election.start()
    assert known == [False]


def test_who_waits_for_leadership_goes_on_with_the_next_candidacy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one, whose thread may hang in a request, need not tell of anything any more."""
    election, told = make(), list[bool]()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    changed: Any = election._candidacy and election._candidacy.shared.changed
    last, notify = election._candidacy, changed.notify_all

    def looked() -> None:
        told.append(election._candidacy is not last)
        notify()

    monkeypatch.setattr(changed, "notify_all", looked)
    election.start()
    assert told[-1:] == [True]
