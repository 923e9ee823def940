"""What any process may ask Redis about an election, also one that is no candidate in it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.records import ElectionStatus, Event, LeaderInfo, printable
from django_leader.redis.connector import Connect
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.forks import Forked

from .local import open_lease

T = TypeVar("T")
LONGEST_ERROR = 500
"""Characters of an error that are shown. The limit is there because a server may quote what others have written."""
AT_A_TIME = 50
"""Threads that ask at a time, at most."""


class Queries:
    """The questions about an election, for any thread.

    Each takes one round trip, on a connection of its own, and raises ``RedisUnavailable``. Await the methods that begin
    with ``a``: they ask in a thread of the event loop's pool.
    """

    label: str
    config: Config

    @property
    def _connect(self) -> Connect:
        raise NotImplementedError

    def status(self) -> ElectionStatus:
        """Return the election as Redis has it. One round trip; raise ``RedisUnavailable``."""
        return self._ask(lambda lease: lease.status())

    def get_leader_info(self) -> LeaderInfo | None:
        """Return the leader, None when there is none. One round trip; raise ``RedisUnavailable``."""
        return self.status().leader

    def get_leader_id(self) -> str:
        """Return the leader's instance id, ``""`` when there is none. One round trip; raise ``RedisUnavailable``."""
        info = self.get_leader_info()
        return info.instance_id if info else ""

    def history(self, limit: int = 20) -> list[Event]:
        """Return the newest changes of leadership, newest first. One round trip; raise ``RedisUnavailable``."""
        return self._ask(lambda lease: lease.history(limit))

    async def astatus(self) -> ElectionStatus:
        """Like ``status()``, for an event loop."""
        return await in_thread(self.status)

    async def aget_leader_info(self) -> LeaderInfo | None:
        """Like ``get_leader_info()``, for an event loop."""
        return await in_thread(self.get_leader_info)

    async def aget_leader_id(self) -> str:
        """Like ``get_leader_id()``, for an event loop."""
        return await in_thread(self.get_leader_id)

    async def ahistory(self, limit: int = 20) -> list[Event]:
        """Like ``history()``, for an event loop."""
        return await in_thread(lambda: self.history(limit))

    def _ask(self, question: Callable[[Lease], T]) -> T:
        lease = open_lease(self._connect, self.config)
        try:
            return question(lease)
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{self.label}: {printable(str(error), LONGEST_ERROR)}") from error
        except Forked:
            text = "the connection was inherited through fork; ask again"
            raise RedisUnavailable(f"{self.label}: {text}") from None
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
