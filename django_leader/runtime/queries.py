"""Where an election's Redis is, and how any process asks it, also one that is no candidate in the election."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import redis

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import orders
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.job_records import JobRecords, job_records
from django_leader.protocol.orders import Look, Order
from django_leader.protocol.records import ElectionStatus, Event, LeaderInfo, printable
from django_leader.redis.connector import Connect, connector
from django_leader.redis.lease import Lease
from django_leader.redis.reasons import refuse
from django_leader.system import clock
from django_leader.system.forks import Forked

from .local import Local, open_lease

T = TypeVar("T")
Client = redis.Redis | Local
LONGEST_ERROR = 500
"""Characters of an error that are shown. The limit is there because a server may quote what others have written."""
AT_A_TIME = 50
"""Threads that ask at a time, at most."""


def source(client: Client | Callable[[], Client]) -> Callable[[], Connect]:
    """Return a function that says how to connect. It calls ``client``, if that is a function, once. Local.

    Threads that call it at the same time may all call ``client``. The first result counts for all of them, because a
    ``Local`` is an election of its own. There is no lock, which a forked child could inherit.

    Raise ``ConfigError`` for a client of another kind. The function does so, too, and raises what ``client`` raises.
    """
    if not callable(client):
        refuse(client)
    known: list[Connect] = []

    def connect() -> Connect:
        if not known:
            known.append(find())
        return known[0]

    def find() -> Connect:
        found = client if isinstance(client, redis.Redis | Local) else client()
        if isinstance(found, Local):
            return found
        refuse(found)
        return connector(found.connection_pool)

    return connect


def ask(connect: Connect, config: ValidConfig, label: str, question: Callable[[Lease], T]) -> T:
    """Return what ``question`` returns, on a connection of its own. One round trip for each request; any thread.

    Raise ``RedisUnavailable``, whose text begins with ``label``.
    """
    lease = open_lease(connect, config)
    try:
        return question(lease)
    except RedisUnavailable as error:
        raise RedisUnavailable(f"{label}: {printable(str(error), LONGEST_ERROR)}") from error
    except Forked:
        raise RedisUnavailable(f"{label}: the connection was inherited through fork; ask again") from None
    finally:
        lease.channel.drop()


async def in_thread(function: Callable[[], T]) -> T:
    """Call ``function`` in a thread of the running event loop's pool, and return its result."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


class Questions:
    """The part of ``LeaderElection`` that asks Redis. Any process may ask, also one that is no candidate."""

    label: str
    config: ValidConfig
    _connect: Callable[[], Connect]

    def job_records(self, names: Sequence[str]) -> JobRecords:
        """For this package: return what Redis has recorded of jobs. Cost and errors: as of ``status()``."""
        return ask(self._connect(), self.config, self.label, lambda lease: self._records(lease, names))

    def _records(self, lease: Lease, names: Sequence[str]) -> JobRecords:
        records: JobRecords = lease.ask(job_records(self.config.keys, names))
        return records

    def connection(self) -> tuple[Connect, ValidConfig]:
        """For this package: return how to connect, and the settings. Local. Raise as ``status()`` does for settings."""
        return self._connect(), self.config

    def look(self, order_id: str, *, withdraw: bool = False) -> Look:
        """For this package: return what has become of an order. Cost and errors: as of ``status()``."""
        request = orders.look(self.config.keys, order_id, withdraw=withdraw)
        seen: Look = ask(self._connect(), self.config, self.label, lambda lease: lease.ask(request))
        return seen

    def give(self, order: Order, seen: Look, not_after: float) -> str:
        """For this package: give an order; see ``protocol.orders``. Cost and errors: as of ``status()``."""
        request = orders.give(self.config, order, seen, not_after)
        return str(ask(self._connect(), self.config, self.label, lambda lease: lease.ask(request)))

    def status(self) -> ElectionStatus:
        """Return the election as Redis has it. One round trip, on a new connection of its own; any thread.

        To open that connection takes up to three operations more (connect, log in, choose the database), and with
        Sentinel a question to a Sentinel. Each of these fails after ``config.timing.operation`` seconds (2 at most).
        A ``LOCAL`` election is asked within this process.

        Raise ``RedisUnavailable`` when Redis cannot be reached, does not answer in time, or answers with an error.
        Raise ``ImproperlyConfigured`` when the election's settings cannot be used. Without Django's settings, raise
        what the function ``client`` raises, and ``ConfigError`` when it has returned a client of another kind.
        """
        return ask(self._connect(), self.config, self.label, lambda lease: lease.status())

    def history(self, limit: int = 20) -> list[Event]:
        """Return the newest ``limit`` changes of leadership, the newest first. Cost and errors: as of ``status()``.

        Redis keeps the newest thousand, and up to a hundred more. A reply ends early behind a megabyte. For a ``limit``
        of 0 or less, return an empty list; that is local.
        """
        return ask(self._connect(), self.config, self.label, lambda lease: lease.history(limit))

    def get_leader_info(self) -> LeaderInfo | None:
        """Return the leader, None when there is none. Cost and errors: as of ``status()``."""
        return self.status().leader

    def get_leader_id(self) -> str:
        """Return the leader's instance id, ``""`` when there is none. Cost and errors: as of ``status()``."""
        return leader.instance_id if (leader := self.get_leader_info()) else ""

    async def astatus(self) -> ElectionStatus:
        """Like ``status()``, in a thread of the event loop's pool."""
        return await in_thread(self.status)

    async def ahistory(self, limit: int = 20) -> list[Event]:
        """Like ``history()``, in a thread of the event loop's pool."""
        return await in_thread(partial(self.history, limit))

    async def aget_leader_info(self) -> LeaderInfo | None:
        """Like ``get_leader_info()``, in a thread of the event loop's pool."""
        return await in_thread(self.get_leader_info)

    async def aget_leader_id(self) -> str:
        """Like ``get_leader_id()``, in a thread of the event loop's pool."""
        return await in_thread(self.get_leader_id)


def ask_together(questions: Sequence[Callable[[], T]], seconds: float) -> list[T | Exception | None]:
    """Ask all questions at once, each in a thread. Return the answers in order; an exception where one was raised.

    Return after ``seconds`` at the latest, unless no thread can be started. None stands for a question that is not
    answered by then; its thread goes on until the question ends.
    """
    answers: list[T | Exception | None] = [None] * len(questions)
    waiting = deque(enumerate(questions))

    def work() -> None:
        with contextlib.suppress(IndexError):  # nothing waits any more
            while True:
                index, question = waiting.popleft()
                answers[index] = _answer(question)

    threads = [threading.Thread(target=work, daemon=True) for _ in questions[:AT_A_TIME]]
    started, until = [], clock.now() + seconds
    with contextlib.suppress(RuntimeError):
        for thread in threads:
            thread.start()
            started.append(thread)
    if not started:
        work()
    for thread in started:
        thread.join(max(0.0, until - clock.now()))
    waiting.clear()
    return list(answers)


def _answer(question: Callable[[], T]) -> T | Exception:
    try:
        return question()
    except Exception as error:
        return error
