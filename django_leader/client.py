"""A Redis client from a ``CACHES`` alias. It makes no connection: it takes only the address and the credentials."""

from __future__ import annotations

import contextlib
import re
from typing import Any
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .exceptions import ConfigError
from .redis import connector
from .redis.reasons import CLUSTER, refuse

DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends.redis.RedisCache"
SCHEMES = ("redis://", "rediss://", "unix://")
NEEDED = "CACHES[{!r}]['LOCATION'] must be a URL such as {}"
WITH_PASSWORD = "redis://:password@127.0.0.1:6379/0"
ENCODED = "in the password write %2F for /, %3F for ?, %23 for #, %40 for @"
ADDRESS = r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?(/\d{1,5})?"
"""Host, port and database, as a user may write them without a scheme."""


def problem(cache: str) -> str | None:
    """Return why the cache ``cache`` cannot carry an election, None if it can. Local, connects to nothing."""
    configured: dict[str, Any] = settings.CACHES
    if cache not in configured:
        return f"CACHE is {cache!r}, which is not in CACHES (there are: {', '.join(map(repr, configured))})"
    backend = configured[cache].get("BACKEND", "")
    try:
        supported = any(issubclass(import_string(backend), import_string(path)) for path in (DJANGO_REDIS, DJANGO))
    except (ImportError, TypeError):
        supported = False
    if not supported:
        return (
            f"CACHE is {cache!r}, whose backend is {backend!r}; an election needs {DJANGO_REDIS!r} or {DJANGO!r}. "
            "Set LOCAL to True to develop without Redis"
        )
    options = configured[cache].get("OPTIONS") or {}
    if "Shard" in str(options.get("CLIENT_CLASS", "")):
        return f"CACHE is {cache!r}, which shards over several servers; an election needs a cache with one primary"
    if "RedisCluster" in str(options.get("REDIS_CLIENT_CLASS", "")):  # making one connects
        return f"CACHE is {cache!r}: {CLUSTER.format('')}"
    location = configured[cache].get("LOCATION")
    if _is_cut(location):
        return f"CACHE is {cache!r}: {NEEDED.format(cache, WITH_PASSWORD)}; {ENCODED}"
    try:
        refuse(_client(cache))
    except ConfigError as error:  # a backend of the project itself makes such a client
        return f"CACHE is {cache!r}: {error}"
    except Exception as error:  # any that a backend raises for a bad LOCATION or OPTIONS; it may name a password
        failed = f"CACHE is {cache!r}, which cannot be used ({type(error).__name__})"
        return f"{failed}; {_misread(cache, location) or 'look at its LOCATION and OPTIONS'}"
    return None


def _is_cut(location: Any) -> bool:
    """Return whether a URL ends within its password, of which the rest is then taken for the name of a host."""
    urls = re.split("[;,]", location) if isinstance(location, str) else location or ()
    for url in urls if isinstance(urls, list | tuple) else ():
        if str(url).startswith(SCHEMES[:2]):
            with contextlib.suppress(ValueError):
                parts = urlsplit(str(url))
                if "@" in parts.path + parts.fragment or ("@" in parts.query and "=" not in parts.query):
                    return True
    return False


def _misread(cache: str, location: Any) -> str:
    """Return why LOCATION is no URL of a Redis, without a possible password; empty if it seems to be one."""
    found = location[0] if isinstance(location, list | tuple) and location else location or ""
    if not isinstance(found, str) or not found.startswith(SCHEMES):
        rest = str(found).rpartition("@")[2]
        shown = (
            f"{'is' if rest == str(found) else 'ends in'} {rest!r}" if re.fullmatch(ADDRESS, rest) else "is no such URL"
        )
        return f"{NEEDED.format(cache, 'redis://127.0.0.1:6379/0')}; it {'is empty' if not found else shown}"
    try:
        _ = urlsplit(found).port
    except ValueError:
        return f"{NEEDED.format(cache, WITH_PASSWORD)}; {ENCODED}"
    return ""


def database(cache: str) -> tuple[object, ...]:
    """Return what is equal for two caches that lead to one Redis database. Local, connects to nothing.

    A cache that cannot carry an election is equal to itself only.
    """
    return (cache,) if problem(cache) else connector.database(_client(cache).connection_pool)


def client(cache: str) -> redis.Redis:
    """Return the client of the cache ``cache``. Local, connects to nothing. Raise ``ImproperlyConfigured``."""
    if why := problem(cache):
        raise ImproperlyConfigured(why)
    return _client(cache)


def _client(cache: str) -> redis.Redis:
    return connector.client_of(caches[cache])
