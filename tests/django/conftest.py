"""A project that is configured for a real server, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from django_leader.handler import elections
from tests.support.servers import RedisServer

FAST = {"LOCK_TTL": 6, "HEARTBEAT_INTERVAL": 0.4, "RETRY_INTERVAL": 0.3, "QUARANTINE": 0}


def caches(url: str, backend: str = "django_redis.cache.RedisCache") -> dict[str, Any]:
    return {
        "default": {"BACKEND": backend, "LOCATION": url},
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }


@pytest.fixture
def project(some_server: RedisServer, settings: Settings) -> Iterator[Settings]:
    """Settings with one fast election on a real server."""
    settings.CACHES = caches(some_server.url)
    settings.LEADER_ELECTIONS = {"default": dict(FAST)}
    yield settings
    elections.reset()
