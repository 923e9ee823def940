"""``elections``: the elections of this process by their alias, made from ``LEADER_ELECTIONS`` on first use.

Settings are read when an election is first asked for, never at import. The Redis client is imported only then, too,
because its import takes longer than all else. ``override_settings`` takes effect at once: elections that were made from
the old settings are stopped and forgotten.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections

from . import idle
from .conf import DEFAULT_ALIAS, UnknownElection, configured
from .overrides import overrides
from .runtime.listeners import closing_unbegun, run_coroutine
from .settings import ElectionSettings, read
from .signals import send_signals
from .system.forks import register
from .system.log import log
from .texts import Text

if TYPE_CHECKING:
    import redis

    from .runtime.election import LeaderElection

NO_DEFAULT = (
    "LEADER_ELECTIONS['default'] is used, but not declared (only: %s). No process participates in it by itself, so "
    "is_leader() without an alias is False. Declare 'default', or name the election, as in is_leader(%r)."
)
LOCAL = (
    "LEADER_ELECTIONS[%r]: LOCAL is True: each candidate leads independently, this process included; nothing is shared "
    "through Redis. This is for development with one process. In production take LOCAL out and give a CACHE."
)
LOCAL_STATUS = Text("LOCAL is True: each candidate leads independently, and does not know of the others")


class ElectionHandler:
    """The elections by alias; iteration yields the configured aliases. Thread-safe, one object per process."""

    def __init__(self) -> None:
        self._made: dict[str, LeaderElection] = {}
        self._lock = threading.RLock()

    def __getitem__(self, alias: str) -> LeaderElection:
        """Return the election ``alias``. Local, connects to nothing.

        Raise ``UnknownElection`` for an alias that is not declared, and ``ImproperlyConfigured`` while Django has no
        settings. ``default`` always exists: where only others are declared, it has the default settings and starts
        nowhere.

        Settings that cannot be used are refused later, by the operation that needs Redis, because a module that uses
        the election as a decorator must not keep ``manage.py check`` from reporting them. Until then the election has
        the default settings, and ``is_leader()`` is False.
        """
        try:
            return self._made[alias]
        except KeyError:
            with self._lock:
                new = alias not in self._made
                if new:
                    self._made[alias] = self._make(alias)
                made = self._made[alias]
            if new and alias == DEFAULT_ALIAS:  # only now, because a filter of the log may ask for this election, too
                _warn_if_not_declared()
            return made

    def __iter__(self) -> Iterator[str]:
        """Yield the aliases that ``LEADER_ELECTIONS`` declares, in its order; ``default`` if it is left out. Local.

        The election of a command is among them only if it is declared. Raise ``ImproperlyConfigured`` at once if the
        setting is empty or no dict of dicts.
        """
        return iter(configured())

    def _make(self, alias: str) -> LeaderElection:
        from . import client
        from .registry import jobs
        from .runtime.election import LeaderElection
        from .runtime.local import Local

        found: ElectionSettings | None = None
        why = ""
        try:
            found = read(alias)
        except ImproperlyConfigured as error:
            if isinstance(error, UnknownElection) or not settings.configured:  # Django may have settings later
                raise
            why = str(error)

        def connect_to() -> redis.Redis | Local:
            if found is None:
                raise ImproperlyConfigured(why)
            if found.local:
                log(logging.INFO if settings.DEBUG else logging.WARNING, LOCAL, alias)
                return Local()
            try:
                return client.client(found.cache)
            except ImproperlyConfigured as error:
                raise ImproperlyConfigured(f"LEADER_ELECTIONS[{alias!r}]: {error}") from error

        election = LeaderElection(
            connect_to,
            found.config if found else None,
            name=alias,
            after_callback=_close_connections,
            run_coroutine=_run_coroutine,
            when_idle=lambda: idle.explain(alias) if found else _log_once(why, alias),
            jobs=lambda: jobs.of(alias),
            prepare=jobs.discover,
        )
        send_signals(election, _run_coroutine)
        overrides.follow(election)
        return election

    def reset(self) -> None:
        """For this package: stop and forget all elections, but not their overrides, when settings are overridden."""
        with self._lock:
            made, self._made = self._made, {}
        for election in made.values():
            election.stop()

    def unlock(self) -> None:
        """For this package: replace the lock in a forked child, where no thread is left to release it."""
        self._lock = threading.RLock()


def _warn_if_not_declared() -> None:
    with suppress(ImproperlyConfigured):  # the operation that needs Redis raises it
        if DEFAULT_ALIAS not in (declared := configured()):
            log(logging.WARNING, NO_DEFAULT, ", ".join(map(repr, declared)), next(iter(declared)))


def _close_connections() -> None:
    """Close the database connections that a callback has opened in its thread."""
    with suppress(Exception):  # if gevent has patched late, threads share them; that must not end a term
        connections.close_all()


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine of a callback or receiver, and close the database connections that it has opened.

    Database calls of a coroutine run in a thread of asgiref. By default asgiref shares one thread for the whole
    process, where nothing would close the connections. So the coroutine gets a thread of its own.
    Raise ``LeaderError`` under gevent and eventlet: see ``run_coroutine``.
    """
    with closing_unbegun(coroutine):
        run_coroutine(_with_own_database_thread(coroutine))


async def _with_own_database_thread(coroutine: Coroutine[Any, Any, Any]) -> None:
    context = ThreadSensitiveContext()
    async with context:
        try:
            await coroutine
        finally:
            if context in SyncToAsync.context_to_thread_executor:  # otherwise it has made no database call
                with suppress(RuntimeError):  # the interpreter ends: no thread can start, and none is there to close in
                    await sync_to_async(_close_connections)()


elections = ElectionHandler()
"""The elections of this process: ``elections["default"]``, ``elections["reports"]``. Local; any thread."""
_told: set[str] = set()
"""The errors of settings that were logged by ``_log_once``."""


def is_leader(using: str = DEFAULT_ALIAS) -> bool:
    """Return whether this process leads the election ``using``, an alias. Local: no network, no lock. Any thread.

    Until the first use of the alias has made the election, a call takes a lock, and may import the Redis client.
    Return False in a process that is not a candidate; the log says once why. Return False, too, if the settings cannot
    be used; the log says once what is wrong. Raise ``UnknownElection`` (a ``KeyError``) for an alias that is not
    declared.
    """
    try:
        return elections[using].is_leader()
    except UnknownElection:
        raise
    except ImproperlyConfigured as error:
        return not _log_once(str(error), using)


def _log_once(why: str, alias: str) -> bool:
    """Log why ``is_leader(alias)`` is False, unless this process has logged it before. Return True. Local."""
    if why not in _told:
        _told.add(why)
        log(logging.ERROR, "%s. Until this is corrected, is_leader(%r) is False in this process.", why, alias)
    return True


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("LEADER_ELECTIONS", "CACHES"):
        elections.reset()


register(after_in_child=elections.unlock)
register(after_in_child=overrides.after_fork)
setting_changed.connect(_settings_changed, dispatch_uid="django_leader.handler")
