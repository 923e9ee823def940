"""What begins with a term: single calls, and the work of ``while_leading``, which also ends with it.

NOT guaranteed here: that the work has ended when the lease does. Its end begins within milliseconds of the end of the
term, but only after its beginning has completed, however long that takes. The end itself takes as long as it takes.

- One thread enters the context manager, waits for the end of the term, and leaves it: the two never overlap.
- The next term begins only when all loss callbacks have returned. The last of them waits for that thread.
- An asynchronous context manager has one event loop for the whole term, in which the tasks that it starts run.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, Protocol, TypeVar

from django_leader.exceptions import LeaderError
from django_leader.system.log import log

Factory = Callable[[int], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
Checked = TypeVar("Checked", bound=Factory)

PATIENCE = 5.0
"""Seconds that what began with a term may take to end before the log says what waits for it."""


class First:
    """What precedes all gains of one term: the first gain calls it, and the others wait meanwhile."""

    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self._lock = threading.Lock()
        # Under the lock:
        self._calls = calls

    def __call__(self) -> None:
        """Call what was not called yet, or wait until another thread has. Raise what it raises."""
        if not self._calls:
            return
        with self._lock:
            while self._calls:
                try:
                    self._calls[0]()
                finally:
                    del self._calls[0]  # only now, because the others look without the lock


class Gain:
    """One call at the beginning of one term. ``__call__`` or ``skip`` acts, whichever comes first, and does so once.

    ``what``: what is called, for the log. ``first``: what must have been called before.
    """

    def __init__(self, call: Callable[[], Any], what: str = "a gain callback", first: First | None = None) -> None:
        self._call, self.what, self._first = call, what, first
        # Held until the first of the two has acquired the first one and releases the others.
        self._claim, self.begun, self._done = threading.Lock(), locked(), locked()
        self.skipped = False

    def __call__(self) -> None:
        """Call it, unless it was skipped. Raise what it raises."""
        if self._claim.acquire(blocking=False):
            try:
                try:
                    if self._first:
                        self._first()
                finally:
                    self.begun.release()
                self._call()
            finally:
                self._done.release()

    def skip(self) -> None:
        """Never call it, because there is no thread for it. Do nothing if it was called. Local."""
        if self._claim.acquire(blocking=False):
            self.skipped = True
            self.begun.release()
            self._done.release()

    def wait(self, text: str, *args: object) -> None:
        """Wait until it has returned, raised or been skipped. To be called once; ``text`` names it in the log."""
        if not self._done.acquire(timeout=PATIENCE):
            text += " has not ended; the end of the term waits for it, and this process does not campaign before that"
            log(logging.WARNING, text, *args)
            self._done.acquire()


def locked() -> threading.Lock:
    """Return a lock that is held, for another thread to release once. An ``Event`` takes longer to make and to set."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def checked(factory: Checked) -> Checked:
    """Return ``factory``. Raise ``TypeError`` for a generator function, which is no factory of managers, but nearly."""
    if not callable(factory) or inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory):
        raise TypeError(
            f"while_leading: {factory!r} is no function that returns a context manager; put "
            "@contextlib.contextmanager (@contextlib.asynccontextmanager) between it and @while_leading"
        )
    return factory


class TermWork(Protocol):
    """What runs in one term, in a thread of its own. ``what`` and ``said`` name it in the log, shortly and fully."""

    what: str

    @property
    def said(self) -> str:
        """Local."""

    def run(self) -> Any:
        """Run until the term is over; or return the coroutine that does so."""

    def end(self) -> None:
        """Signal that the term is over. Local, any thread."""


class Work:
    """The work of one term, which ``run`` does in one thread, and whose ``end`` another one calls.

    ``factory`` returns the context manager for the term ``token``.
    """

    def __init__(self, factory: Factory, token: int) -> None:
        self.factory, self._token = factory, token
        self._over, self._lock = threading.Event(), threading.Lock()
        # Under the lock:
        self._wake: Callable[[], Any] = lambda: None
        """What signals to the event loop that the term is over."""

    what = "work of while_leading"

    @property
    def said(self) -> str:
        """What it is, for the log. Local."""
        return f"work of while_leading ({self.factory!r})"

    def run(self) -> Coroutine[Any, Any, None] | None:
        """Enter the context manager, wait for the end of the term, leave it; or return the coroutine that does so.

        Raise what the context manager raises. Do nothing if the term is over already.
        """
        if self._over.is_set():
            return None
        manager: Any = self.factory(self._token)
        if isinstance(manager, AbstractAsyncContextManager):
            return self._run_async(manager)
        if not isinstance(manager, AbstractContextManager):
            if inspect.iscoroutine(manager):
                manager.close()  # or Python warns that it was never awaited
            raise TypeError(f"while_leading: {self.factory!r} returned {manager!r}, which is no context manager")
        with manager:
            self._over.wait()
        return None

    async def _run_async(self, manager: AbstractAsyncContextManager[Any]) -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        with self._lock:
            self._wake = lambda: loop.call_soon_threadsafe(over.set)
        if not self._over.is_set():
            async with manager:
                await over.wait()
        if not self._over.is_set():
            raise LeaderError(f"while_leading: {self.factory!r} ended before its term did")

    def end(self) -> None:
        """Signal that the term is over. Local."""
        self._over.set()
        with self._lock, suppress(RuntimeError):  # its event loop may have ended before
            self._wake()
