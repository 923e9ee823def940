"""``while_leading``: work that is begun and ended with each term, by a context manager.

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
from typing import Any

from django_leader.exceptions import LeaderError
from django_leader.system.log import log

Factory = Callable[[int], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]

PATIENCE = 5.0
"""Seconds that work may take to end before the log says what waits for it."""


class Gain:
    """A function to call when a term begins, and ``skip`` to call if that is not possible, or has raised.

    ``what``: what the function is, for the log.
    """

    def __init__(
        self, call: Callable[[], Any], skip: Callable[[], Any] = lambda: None, what: str = "a gain callback"
    ) -> None:
        self._call, self.skip, self.what = call, skip, what

    def __call__(self) -> None:
        """Call it. Raise what it raises."""
        self._call()


class Work:
    """One registered context manager of one election. ``factory`` returns it for the token of a term.

    Raise ``TypeError`` for a generator function, which is no such factory, but nearly one.
    """

    def __init__(self, factory: Factory, name: str) -> None:
        if not callable(factory) or inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory):
            raise TypeError(
                f"while_leading: {factory!r} is no function that returns a context manager; put "
                "@contextlib.contextmanager (@contextlib.asynccontextmanager) between it and @while_leading"
            )
        self._factory, self._name = factory, name
        # By token, so that a fork inherits nothing that could be taken for its own. The election thread adds, the
        # watcher of the term removes.
        self._terms: dict[int, WorkTerm] = {}

    def term(self, token: int) -> WorkTerm:
        """Return the work of the term ``token``, which has just begun. Local."""
        term = self._terms[token] = WorkTerm(self._factory, token, self._name)
        return term

    def pop(self, token: int) -> WorkTerm | None:
        """Return the work of the term ``token``, which has ended; None if it had none. Local."""
        return self._terms.pop(token, None)


class WorkTerm:
    """The work of one term: ``run`` or ``skip`` in one thread, ``end`` and then ``wait`` in another."""

    def __init__(self, factory: Factory, token: int, name: str) -> None:
        self._factory, self._token, self._name = factory, token, name
        self._over, self._done, self._lock = threading.Event(), threading.Event(), threading.Lock()
        # The thread that runs it writes:
        self._begun = False
        # Under the lock:
        self._wake: Callable[[], Any] = lambda: None
        """What signals to the event loop that the term is over."""

    def run(self) -> Coroutine[Any, Any, None] | None:
        """Enter the context manager, wait for the end of the term, leave it; or return the coroutine that does so.

        Raise what the context manager raises. Do nothing if the term is over already.
        """
        asynchronous = False
        try:
            if self._over.is_set():
                return None
            manager: Any = self._factory(self._token)
            if isinstance(manager, AbstractAsyncContextManager):
                asynchronous = True
                return self._run_async(manager)
            if not isinstance(manager, AbstractContextManager):
                if inspect.iscoroutine(manager):
                    manager.close()  # or Python warns that it was never awaited
                raise TypeError(f"while_leading: {self._factory!r} returned {manager!r}, which is no context manager")
            self._begun = True
            with manager:
                self._over.wait()
            return None
        finally:
            if not asynchronous:
                self._done.set()

    async def _run_async(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._begun = True
        try:
            over, loop = asyncio.Event(), asyncio.get_running_loop()
            with self._lock:
                self._wake = lambda: loop.call_soon_threadsafe(over.set)
            if not self._over.is_set():
                async with manager:
                    await over.wait()
            if not self._over.is_set():
                raise LeaderError(f"while_leading: {self._factory!r} ended before its term did")
        finally:
            self._done.set()

    def skip(self) -> None:
        """Never begin it, because there is no thread or event loop to run it in. Do nothing if it has begun. Local."""
        if not self._begun:
            self._over.set()
            self._done.set()

    def end(self) -> None:
        """Signal that the term is over. Local."""
        self._over.set()
        with self._lock, suppress(RuntimeError):  # its event loop may have ended before
            self._wake()

    def wait(self) -> None:
        """Wait until the context manager has been left, or could not be entered."""
        if not self._done.wait(PATIENCE):
            text = "%s: work of while_leading has not ended (%r); this process does not campaign until it has"
            log(logging.WARNING, text, self._name, self._factory)
            self._done.wait()
