"""What anybody may ask Redis about an election, also a process that takes no part in it."""

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
"""Characters of an error that are shown: a server may put what others have written into its own."""
AT_A_TIME = 50
"""Threads that ask at a time."""


class Queries:
    """One round trip each, on a connection of its own; raises ``RedisUnavailable``. Any thread.

    The methods that begin with ``a`` are to be awaited: they ask in a thread of the event loop's pool.
    """

    label: str
    config: Config

    @property
    def _connect(self) -> Connect:
        raise NotImplementedError

    def status(self) -> ElectionStatus:
        """The election as Redis has it. One round trip; raises ``RedisUnavailable``."""
        return self._ask(lambda lease: lease.status())

    def get_leader_info(self) -> LeaderInfo | None:
        """Who leads, None when nobody does. One round trip; raises ``RedisUnavailable``."""
        return self.status().leader

    def get_leader_id(self) -> str:
        """The leader's instance id, ``""`` when nobody leads. One round trip; raises ``RedisUnavailable``."""
        info = self.get_leader_info()
        return info.instance_id if info else ""

    def history(self, limit: int = 20) -> list[Event]:
        """The newest changes of leadership, newest first. One round trip; raises ``RedisUnavailable``."""
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
    """Calls ``function`` in a thread of the running event loop's pool, and gives what it gives."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


def ask_together(questions: Sequence[Callable[[], T]], seconds: float) -> list[T | Exception | None]:
    """Ask all at once, each in a thread. Return the answers in order; an exception where one was raised.

    Returns after ``seconds`` at the latest, unless no thread can be started. None stands for what is not answered by
    then; the thread goes on until its question ends.
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
