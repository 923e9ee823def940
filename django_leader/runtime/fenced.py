"""``LeaderElection.fenced()``: writes to Redis that are refused when another process leads.

NOT guaranteed here: what ``protocol.fence`` says that it does not guarantee. While a test overrides the election, and
with ``LOCAL``, a write is only checked against this process's own term, because Redis knows of no election then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, overload

import redis
from redis.client import Pipeline

from django_leader.exceptions import ConfigError, NotLeader, RedisUnavailable, StaleToken
from django_leader.protocol import fence
from django_leader.redis.connector import Connector, client_of, connector, database
from django_leader.redis.fence import RefusedWrite, write
from django_leader.redis.reasons import refuse
from django_leader.system.log import log

from .answers import Answers
from .listeners import Listeners
from .local import Local
from .queries import Questions, ask
from .term import Term

_DEFAULT: Any = object()


class Cache(Protocol):
    """A cache of Django. One of its Redis backends, or one of django-redis, can be fenced."""

    def make_key(self, key: Any, version: Any = None) -> Any:
        """Return the key in Redis."""


class Fencing(Answers, Questions):
    """The part of ``LeaderElection`` that fences writes."""

    _listeners: Listeners

    @overload
    def fenced(self, target: redis.Redis, *, term: Term | None = None) -> FencedRedis: ...

    @overload
    def fenced(self, target: Cache, *, term: Term | None = None) -> FencedCache: ...

    def fenced(self, target: Any, *, term: Term | None = None) -> Any:
        """Return an object that writes to ``target`` as the leader, and whose writes Redis refuses to a former leader.

        ``target``: a ``redis.Redis``, or a cache of django-redis or of Django's own Redis backend. The check of the
        term and the write are one step at the server. ``term``: the only term in which it writes; by default each write
        belongs to the term in which this process leads when it is made. Work that takes long gives its own.

        Call it where modules are imported: each later term of this process then makes the server of ``target`` refuse
        all former leaders, before the gain callbacks of that term are called. These wait for that, and so do the loss
        callbacks if the term ends meanwhile. It takes one round trip on a connection of its own, and four operations of
        ``config.timing.operation`` seconds at most. If that server cannot be reached, a warning is logged, the term
        goes on, and its first fenced write does the same. At the election's own server and database nothing has to be
        done for that.

        Local; any thread. Raise ``ConfigError`` for a target of another kind, such as the client of a Redis Cluster or
        a pipeline, and for a term of another election.
        """
        if term and term.label != self.label:
            raise ConfigError(f"{self.label}: {term!r} is of another election; give a term of this one")
        if hasattr(target, "make_key"):
            cache = FencedCache(self, target, term)
            try:
                self._raise_at_gain(cache._client())
            except Exception:  # in a test the cache may be none of Redis; a write says so
                return cache
            return cache
        kind = type(target)
        if isinstance(target, Pipeline) or not (isinstance(target, redis.Redis) or "Cluster" in kind.__name__):
            raise ConfigError(f"{self.label}: {KINDS.format(f'{kind.__module__}.{kind.__qualname__}')}")
        refuse(target)
        self._raise_at_gain(target)
        return FencedRedis(self, lambda: target, term)

    def _raise_at_gain(self, client: redis.Redis) -> None:
        def raise_mark(token: int) -> None:
            if self._is_fenced() and not self._is_own(client):
                try:
                    self._raise_mark(client, token)
                except RedisUnavailable as error:  # its cause has no label
                    log(logging.WARNING, NOT_RAISED, self.label, error.__cause__)

        self._listeners.fences.setdefault(database(client.connection_pool), raise_mark)

    def _raise_mark(self, client: redis.Redis, token: int) -> None:
        request = fence.raise_mark(self.config.keys, token)
        ask(connector(client.connection_pool), self.config, self.label, lambda lease: lease.ask(request))

    def _is_fenced(self) -> bool:
        """Whether Redis can tell who leads: not in an overridden test, nor with ``LOCAL``."""
        return self.overridden is None and not isinstance(self._connect(), Local)

    def _is_own(self, client: redis.Redis) -> bool:
        connect = self._connect()
        return isinstance(connect, Connector) and connect.database == database(client.connection_pool)

    def _confirm(self, token: int) -> None:
        """Return if the term leads by what the election's Redis knows. One round trip. Raise if not."""
        status = self.status()
        if status.fencing_token > token:
            raise StaleToken(STALE.format(self.label, token))
        if status.leader is None or status.fencing_token != token:
            raise RedisUnavailable(LOST.format(self.label))


KINDS = "fenced() takes a redis.Redis, or a cache of django-redis or of Django's Redis backend, and was given a {}"
NOT_RAISED = (
    "%s: the fence of another Redis could not be raised (%s). Former leaders may write there until this leader does"
)
STALE = (
    "{}: a write of the term with token {} was refused, because a later leader was elected or the lease is over. "
    "Nothing was written; end this work"
)
LOST = (
    "{}: nothing was written, because Redis has lost data and does not know who leads. If this process still leads, "
    "its next heartbeat tells Redis; try again then"
)


class _Fenced:
    """What both kinds of targets have in common. ``client`` returns the client through which it writes."""

    def __init__(self, election: Fencing, client: Callable[[], redis.Redis], term: Term | None) -> None:
        self._election, self._client, self._term = election, client, term

    def _begin(self) -> Term:
        """Return the term of a write, if it goes on by this process's own knowledge. Local."""
        election, term = self._election, self._term or self._election.term()
        if term is None:
            text = f"this process ({election.instance_id}) does not lead, and so does not write"
            raise NotLeader(f"{election.label}: {text}. Write in the process that leads")
        if not term.is_current():
            raise StaleToken(STALE.format(election.label, term.token))
        return term

    def _write(self, body: str, keys: tuple[Any, ...], words: tuple[Any, ...]) -> Any:
        election, term, client = self._election, self._begin(), self._client()
        if not election._is_fenced():
            return client.eval(body, len(keys), *keys, *words)
        own = election._is_own(client)
        mark = election.config.keys.state if own else fence.mark_key(election.config.keys)
        send = partial(
            write, client, fence.fenced(body), (mark, *keys), ("state" if own else "token", term.token, *words)
        )
        try:
            try:
                return send()
            except RefusedWrite as refusal:
                if own or refusal.code == fence.STALE:
                    raise
            election._confirm(term.token)  # the mark was lost, or no term has raised it yet
            election._raise_mark(client, term.token)
            return send()
        except RefusedWrite as refusal:
            if refusal.code == fence.STALE:
                raise StaleToken(STALE.format(election.label, term.token)) from None
            raise RedisUnavailable(LOST.format(election.label)) from None

    def _command(self, keys: tuple[Any, ...], *words: Any) -> Any:
        return self._write(fence.COMMAND, keys, words)


class FencedRedis(_Fenced):
    """Writes of the leader through a client of redis-py. Made by ``LeaderElection.fenced()``.

    Each method is one round trip through that client, in any thread. It is a script, so it cannot be part of a
    pipeline. Each raises ``StaleToken`` if another process leads or this term is over, and ``NotLeader`` if this
    process does not lead; nothing was written then. Each raises ``RedisUnavailable`` if Redis has lost its data and
    cannot say who leads, and what the client raises.
    """

    def set(self, name: str, value: Any, *, ex: int | None = None, px: int | None = None) -> None:
        """Set a key, for ``ex`` seconds or ``px`` milliseconds; by default for good."""
        lasts = (("EX", ex) if ex is not None else ()) + (("PX", px) if px is not None else ())
        self._command((name,), "SET", name, value, *lasts)

    def hset(
        self, name: str, key: str | None = None, value: Any = None, mapping: Mapping[str, Any] | None = None
    ) -> int:
        """Set fields of a hash. Return how many are new."""
        pairs = ({} if key is None else {key: value}) | dict(mapping or {})
        words = [word for pair in pairs.items() for word in pair]
        return int(self._command((name,), "HSET", name, *words))

    def delete(self, *names: str) -> int:
        """Delete keys. Return how many there were."""
        return int(self._command(names, "DEL", *names))

    def incr(self, name: str, amount: int = 1) -> int:
        """Increase a number, 0 if there is none, and return it."""
        return int(self._command((name,), "INCRBY", name, amount))

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a Lua script, with the arguments and the reply of ``redis.Redis.eval``. It must not begin with ``#!``."""
        return self._write(script, keys_and_args[:numkeys], keys_and_args[numkeys:])


class FencedCache(_Fenced):
    """Writes of the leader to a cache on Redis. ``LeaderElection.fenced()`` makes it. ``cache.get()`` reads them.

    Cost, threads and errors are those of ``FencedRedis``. It raises what the client of redis-py raises, also where the
    cache is to ignore that. ``ConfigError`` says that the cache is none on Redis.
    """

    def __init__(self, election: Fencing, cache: Any, term: Term | None) -> None:
        super().__init__(election, self._client_of_cache, term)
        self._cache = cache

    def set(self, key: str, value: Any, timeout: float | None = _DEFAULT, version: int | None = None) -> None:
        """Set a key for ``timeout`` seconds: by default for the cache's own time, with None for good."""
        timeout = self._cache.default_timeout if timeout is _DEFAULT else timeout
        if self._is_plain():
            self._cache.set(key, value, timeout, version)
            return
        name, value = self._name(key, version), self._encoded(value)
        if timeout is not None and timeout <= 0:
            self._command((name,), "DEL", name)
        else:
            self._command((name,), "SET", name, value, *(() if timeout is None else ("PX", int(timeout * 1000))))

    def delete(self, key: str, version: int | None = None) -> bool:
        """Delete a key. Return whether it was there."""
        if self._is_plain():
            return bool(self._cache.delete(key, version))
        return bool(self._command((name := self._name(key, version),), "DEL", name))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Increase a number and return it. Raise ``ValueError`` if there is none."""
        if self._is_plain():
            return int(self._cache.incr(key, delta, version))
        found = self._write(fence.INCREASE, (self._name(key, version),), (delta,))
        if found is None:
            raise ValueError(f"Key {key!r} not found")
        return int(found)

    def _is_plain(self) -> bool:
        """Return whether the cache itself is to write. Raise what a fenced write raises before it is sent."""
        self._begin()
        if self._election._is_fenced():
            self._client()
            return False
        return True

    def _client_of_cache(self) -> redis.Redis:
        try:
            client = client_of(self._cache)
        except AttributeError:
            client = None
        if not isinstance(client, redis.Redis) or "Shard" in type(getattr(self._cache, "client", None)).__name__:
            kind = f"cache that is not on one server of Redis ({self._cache!r})"
            raise ConfigError(f"{self._election.label}: {KINDS.format(kind)}")
        return client

    def _name(self, key: str, version: int | None) -> str:
        return str(getattr(self._cache, "client", self._cache).make_key(key, version=version))

    def _encoded(self, value: Any) -> Any:
        return self._cache.client.encode(value) if hasattr(self._cache, "client") else self._dump(value)

    def _dump(self, value: Any) -> Any:
        return self._cache._cache._serializer.dumps(value)
