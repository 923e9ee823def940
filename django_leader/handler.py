"""``elections``: the elections of this process by their alias, made from ``LEADER_ELECTIONS`` on first use.

Settings are read when an election is first asked for, never at import. The Redis client is imported only then, too,
because its import takes longer than all else. ``override_settings`` takes effect at once: elections that were made from
the old settings are stopped and forgotten.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections

from . import idle
from .conf import DEFAULT_ALIAS, Autostart, UnknownElection, configured, entry_of, starting
from .exceptions import ConfigError, LeaderError
from .fingerprint import fingerprints
from .overrides import overrides
from .protocol.config import SEED_FIELDS, Config
from .runtime.listeners import closing_unbegun, run_coroutine
from .signals import ElectionSignal, Failed, became_leader, leader_changed, lost_leadership
from .system.forks import register
from .system.log import log

if TYPE_CHECKING:
    import redis

    from .runtime.election import LeaderElection

FIELDS = {field.name.upper(): field.name for field in fields(Config) if field.name != "projects"}
"""The settings that are fields of ``Config``."""
NO_DEFAULT = (
    "LEADER_ELECTIONS['default'] is used, but not declared (only: %s). No process participates in it by itself, so "
    "is_leader() without an alias is False. Declare 'default', or name the election, as in is_leader(%r)."
)
LOCAL = (
    "LEADER_ELECTIONS[%r]: LOCAL is True: each candidate leads independently, this process included; nothing is shared "
    "through Redis. This is for development with one process. In production take LOCAL out and give a CACHE."
)
LOCAL_STATUS = "LOCAL is True: each candidate leads independently, and does not know of the others"
PATIENCE = 5.0
"""Seconds that a receiver may take before the log says what waits for it."""
KEYS = ("CACHE", *list(FIELDS)[:SEED_FIELDS], "AUTOSTART", "SERVING_COMMANDS", *list(FIELDS)[SEED_FIELDS:], "LOCAL")
"""All settings of an election, in the order in which they were introduced: see ``checks``."""


@dataclass(frozen=True)
class ElectionSettings:
    """One entry of ``LEADER_ELECTIONS``, with the defaults filled in."""

    alias: str
    cache: str
    autostart: Autostart
    serving_commands: tuple[str, ...]
    config: Config
    local: bool = False


def read(alias: str) -> ElectionSettings:
    """Return the settings of the election ``alias``. Raise ``ImproperlyConfigured``, which says what to change.

    ``command:<name>`` is the election of a command. Unless it is configured, it is like ``default``, but with keys of
    its own. It never starts by itself unless ``AUTOSTART`` says so. Every other alias but ``default`` gets keys that
    end in its name, too.
    """
    source, entry = entry_of(alias)
    command = source != alias
    label = f"LEADER_ELECTIONS[{source!r}]"
    if unknown := [key for key in entry if key not in KEYS]:
        raise ImproperlyConfigured(f"{label}: unknown key {unknown[0]!r}; take it out, or use one of {', '.join(KEYS)}")
    autostart, serving = starting(source, entry)
    cache = entry.get("CACHE", "default")
    if not isinstance(cache, str):
        raise ImproperlyConfigured(f"{label}: CACHE is {cache!r}; give the name of an entry of CACHES")
    if not isinstance(local := entry.get("LOCAL", False), bool):
        raise ImproperlyConfigured(f"{label}: LOCAL is {local!r}; use True or False")
    try:
        given = {field: entry[key] for key, field in FIELDS.items() if key in entry}
        config = Config(**given, projects=fingerprints())
        if alias != DEFAULT_ALIAS:
            own = config.derive(alias)
            config = own if command else replace(config, **_fill(config, own, entry))
    except ConfigError as error:
        message = re.sub(r"\b(" + "|".join(FIELDS.values()) + r")\b", lambda m: m[0].upper(), str(error))
        raise ImproperlyConfigured(f"{label}: {message}") from error
    return ElectionSettings(alias, cache, False if command else autostart, serving, config, local)


def _fill(config: Config, own: Config, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``config``, with the keys of ``own`` where the entry names none."""
    return {
        field: getattr(own if key.startswith("REDIS") and not entry.get(key) else config, field)
        for key, field in FIELDS.items()
    }


class ElectionHandler:
    """The elections by alias; iteration yields the configured aliases. Thread-safe, one object per process."""

    def __init__(self) -> None:
        self._made: dict[str, LeaderElection] = {}
        self._lock = threading.RLock()

    def __getitem__(self, alias: str) -> LeaderElection:
        """Return the election ``alias``. Local, connects to nothing.

        Raise ``ImproperlyConfigured`` for bad settings, and ``UnknownElection`` for an alias that is not declared.
        ``default`` always exists: where only others are declared, it has the default settings and starts nowhere.

        A ``CACHE`` that cannot carry an election is refused later, by the operation that needs Redis: in tests, where
        the caches are often local, ``is_leader()`` is simply False.
        """
        try:
            return self._made[alias]
        except KeyError:
            with self._lock:
                new = alias not in self._made
                if new:
                    self._made[alias] = self._make(alias)
                made = self._made[alias]
            if new and alias == DEFAULT_ALIAS and alias not in (declared := configured()):
                # Log only now, because a filter of the log may ask for this election, too.
                log(logging.WARNING, NO_DEFAULT, ", ".join(map(repr, declared)), next(iter(declared)))
            return made

    def __iter__(self) -> Iterator[str]:
        return iter(configured())

    def _make(self, alias: str) -> LeaderElection:
        from . import client
        from .runtime.election import LeaderElection
        from .runtime.local import Local

        found = read(alias)

        def connect_to() -> redis.Redis | Local:
            if found.local:
                log(logging.INFO if settings.DEBUG else logging.WARNING, LOCAL, alias)
                return Local()
            try:
                return client.client(found.cache)
            except ImproperlyConfigured as error:
                raise ImproperlyConfigured(f"LEADER_ELECTIONS[{alias!r}]: {error}") from error

        election = LeaderElection(
            connect_to,
            found.config,
            name=alias,
            after_callback=_close_connections,
            run_coroutine=_run_coroutine,
            when_idle=lambda: idle.explain(alias),
        )
        _send_signals(election)
        overrides.follow(election)
        return election

    def reset(self) -> None:
        """Stop and forget all elections, but not their overrides. For when settings are overridden."""
        with self._lock:
            made, self._made = self._made, {}
        for election in made.values():
            election.stop()

    def unlock(self) -> None:
        """Replace the lock in a forked child, where no thread is left to release it if it was held."""
        self._lock = threading.RLock()


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


def _send_signals(election: LeaderElection) -> None:
    """Have ``election`` send the signals, in pairs for each receiver.

    The receivers of a gain run one after the other. So the loss waits until the last of them has returned: no receiver
    is called for the loss before the gain.
    """
    send = {"using": election.name, "election": election}
    sent: dict[int, threading.Event] = {}  # by token, so that a child takes nothing inherited for its own

    def tell(signal: ElectionSignal, **named: Any) -> list[Failed]:
        failed = signal.tell(type(election), _run_coroutine, **send, **named)
        for receiver, error in failed:
            text = "%s: the receiver %r of %s raised an exception"
            log(logging.ERROR, text, election.label, receiver, signal.name, exc_info=error)
        return failed

    def gained(token: int) -> None:
        try:
            failed = tell(became_leader, fencing_token=token)
        finally:
            sent.setdefault(token, threading.Event()).set()
        if failed:
            raise LeaderError(f"the receiver {failed[0][0]!r} of became_leader raised an exception") from failed[0][1]

    def lost(token: int, reason: str) -> None:
        gain_sent = sent.setdefault(token, threading.Event())
        if not gain_sent.wait(PATIENCE):
            text = "LEADER_ELECTIONS[%r]: a receiver of became_leader has not returned; lost_leadership waits for it"
            log(logging.WARNING, text + ", and this process does not campaign before that", election.name)
            gain_sent.wait()
        del sent[token]
        tell(lost_leadership, fencing_token=token, reason=reason)

    def changed(previous: str, current: str) -> None:
        tell(leader_changed, previous=previous, current=current)

    election.listen(gained, lost, changed)


elections = ElectionHandler()
_told: set[str] = set()
"""The errors of settings that ``is_leader`` has logged."""


def is_leader(using: str = DEFAULT_ALIAS) -> bool:
    """Return whether this process leads the election ``using``. Local: no network, no lock. Any thread.

    Return False in a process that is not a candidate; the log says once why. Return False, too, if the settings cannot
    be used; the log says once what is wrong. Raise ``UnknownElection`` (a ``KeyError``) for an alias that is not
    declared.
    """
    try:
        return elections[using].is_leader()
    except UnknownElection:
        raise
    except ImproperlyConfigured as error:
        if (text := str(error)) not in _told:
            _told.add(text)
            log(logging.ERROR, "%s. Until this is corrected, is_leader(%r) is False in this process.", text, using)
        return False


def _settings_changed(*, setting: str, **kwargs: Any) -> None:
    if setting in ("LEADER_ELECTIONS", "CACHES"):
        elections.reset()


register(after_in_child=elections.unlock)
register(after_in_child=overrides.after_fork)
setting_changed.connect(_settings_changed, dispatch_uid="django_leader.handler")
