"""A Redis client from a ``CACHES`` alias. Makes no connection: only where to connect, and how to log in, is taken."""

from __future__ import annotations

from typing import Any

import redis
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO = "django.core.cache.backends.redis.RedisCache"


def problem(cache: str) -> str | None:
    """Why the cache ``cache`` cannot carry an election, None if it can. Local, connects to nothing."""
    configured: dict[str, Any] = settings.CACHES
    if cache not in configured:
        return f"CACHE is {cache!r}, which is not in CACHES (there are: {', '.join(map(repr, configured))})"
    backend = configured[cache].get("BACKEND", "")
    try:
        supported = any(issubclass(import_string(backend), import_string(path)) for path in (DJANGO_REDIS, DJANGO))
    except (ImportError, TypeError):
        supported = False
    if not supported:
        return f"CACHE is {cache!r}, whose backend is {backend!r}; an election needs {DJANGO_REDIS!r} or {DJANGO!r}"
    if "Shard" in str((configured[cache].get("OPTIONS") or {}).get("CLIENT_CLASS", "")):
        return f"CACHE is {cache!r}, which shards over several servers; an election needs a cache with one primary"
    try:
        _client(cache)
    except Exception as error:  # whatever a backend makes of a bad LOCATION or OPTIONS; it may name a password
        return f"CACHE is {cache!r}, which cannot be used ({type(error).__name__}); look at its LOCATION and OPTIONS"
    return None


def client(cache: str) -> redis.Redis:
    """The client of the cache ``cache``. Local, connects to nothing. Raises ``ImproperlyConfigured``."""
    if why := problem(cache):
        raise ImproperlyConfigured(why)
    return _client(cache)


def _client(cache: str) -> redis.Redis:
    backend: Any = caches[cache]
    # Both have one method that gives the raw client; django-redis' backend has it on its public client object.
    owner = backend.client if hasattr(backend, "client") else backend._cache
    found: redis.Redis = owner.get_client(write=True)
    return found
