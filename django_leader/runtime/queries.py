"""Where an election's Redis is, and how any process asks it, also one that is no candidate in the election."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import redis

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.records import printable
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
