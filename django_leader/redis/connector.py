"""Where Redis is, and how a connection to it is made: like those of the application's pool, but private.

NOT guaranteed here: that the server is a primary, or the same one as at the last connect.

The Sentinel clients of an application are not used, because one that hangs would delay an election for as long as
*their* timeouts say, and redis-py retries ten times. No connection to a Sentinel is kept open between two look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, ConnectionPool, DefaultParser
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from .limits import limited
from .reasons import NoPrimary, explain, place_in

Connect = Callable[[float], Connection]
"""Makes a connection, unconnected. Its connect and each of its reads end after the given number of seconds."""

_NO_CLIENT_INFO: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


def connector(pool: ConnectionPool) -> Connector:
    """Return a function that makes connections like those of ``pool``. Local."""
    return Connector(pool)


class Connector:
    """Makes connections like those of ``pool``, but private and without retries.

    They have the address, the credentials and the TLS of the pool. If Sentinel manages the pool, a connection leads to
    the server that is the primary when it connects.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        # With RESP2 and no client info a new connection costs no handshake beyond what the server asks for.
        kwargs = private(pool.connection_kwargs) | _NO_CLIENT_INFO | {"protocol": 2, "client_name": None}
        kwargs |= {"decode_responses": False, "health_check_interval": 0}
        kwargs["parser_class"] = limited(kwargs.get("parser_class", DefaultParser))
        self._pool, self._kwargs = pool, kwargs
        self._primary = Primary(pool) if isinstance(pool, SentinelConnectionPool) else None

    def __call__(self, timeout: float) -> Connection:
        """Make a connection whose connect and each of whose reads end after ``timeout`` seconds. Local."""
        own: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        if self._primary:
            own["connection_pool"] = self._primary.within(timeout)
        connection: Connection = self._pool.connection_class(**self._kwargs | own)
        return connection

    @property
    def database(self) -> tuple[object, ...]:
        """What is equal for two pools that lead to one database. Local."""
        return database(self._pool)


def database(pool: ConnectionPool) -> tuple[object, ...]:
    """Return what is equal for two pools that lead to one database. Local, connects to nothing.

    Two names of one host are not known to be one.
    """
    place: object = place_in(pool.connection_kwargs)
    if isinstance(pool, SentinelConnectionPool):
        sentinels = pool.sentinel_manager.sentinels
        place = pool.service_name, frozenset(place_in(one.connection_pool.connection_kwargs) for one in sentinels)
    return place, str(pool.connection_kwargs.get("db") or 0)


def client_of(cache: Any) -> redis.Redis:
    """Return the client of a cache of django-redis or of Django. Local, connects to nothing."""
    # Both have one method that returns the raw client; django-redis' backend has it on its public client object.
    owner = cache.client if hasattr(cache, "client") else cache._cache
    client: redis.Redis = owner.get_client(write=True)
    return client


class Primary:
    """The object that a connection of redis-py that is managed by Sentinel asks for its address."""

    is_master = True
    check_connection = False

    def __init__(self, pool: SentinelConnectionPool) -> None:
        self.service_name = pool.service_name
        known = pool.sentinel_manager
        self._sentinel = Sentinel([], min_other_sentinels=known.min_other_sentinels)  # type: ignore[no-untyped-call]
        self._force_master_ip = getattr(known, "_force_master_ip", None)
        self._known, self._timeout = known.sentinels, 0.0

    def within(self, timeout: float) -> Primary:
        """Give each Sentinel ``timeout`` seconds to answer."""
        if timeout != self._timeout:
            self._timeout = timeout
            self._sentinel.sentinels = [_client(sentinel, timeout) for sentinel in self._known]
        return self

    def get_master_address(self) -> tuple[str, int]:
        """Return host and port. One round trip to the Sentinel that answered last, then to the others.

        Raise ``NoPrimary``, which is a ``MasterNotFoundError`` of redis-py, when none knows.
        """
        # Not ``discover_master`` of redis-py: its error about a Sentinel that does not answer may hold its password.
        sentinels, failures = self._sentinel.sentinels, []
        try:
            for sentinel in sentinels:
                place = place_in(sentinel.connection_pool.connection_kwargs)
                try:
                    masters: Any = sentinel.sentinel_masters()
                except (RedisError, OSError) as error:
                    failures.append(explain(error, place))
                    continue
                state = masters.get(self.service_name)
                if state and self._sentinel.check_master_state(state, self.service_name):  # type: ignore[no-untyped-call]
                    sentinels.remove(sentinel)
                    sentinels.insert(0, sentinel)
                    return self._force_master_ip or state["ip"], state["port"]
                failures.append(f"{place} {'says that it is down' if state else 'does not know it'}")
        finally:
            for sentinel in sentinels:
                sentinel.close()
        raise NoPrimary(f"no Sentinel names a primary for {self.service_name!r} ({'; '.join(failures)})")


def _client(sentinel: redis.Redis, timeout: float) -> redis.Redis:
    pool = sentinel.connection_pool
    kwargs: dict[str, Any] = private(pool.connection_kwargs)
    kwargs |= {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
    return redis.Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **kwargs))


def private(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments of a pool's connections that say where the server is and how to log in."""
    unwanted = ("maint", "orig_", "oss_cluster", "event_dispatcher", "retry", "himport", "lib_", "driver_info")
    return {name: value for name, value in kwargs.items() if not name.startswith(unwanted)}
