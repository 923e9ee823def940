"""A project that is configured for a real server, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from pytest_django import Settings

from django_leader.handler import elections
from django_leader.startup.starter import Starter
from tests.support.servers import RedisServer

FAST = {"LOCK_TTL": 9, "HEARTBEAT_INTERVAL": 0.4, "RETRY_INTERVAL": 0.3, "QUARANTINE": 0}


def caches(url: str, backend: str = "django_redis.cache.RedisCache") -> dict[str, Any]:
    return {
        "default": {"BACKEND": backend, "LOCATION": url},
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }


class Cluster(redis.RedisCluster):
    """The client of a cluster, which is never asked: to make a real one connects."""

    def __init__(self) -> None: ...

    def __del__(self) -> None: ...


class ClusterCacheClient(RedisCacheClient):
    """Makes it."""

    def get_client(self, key: Any = None, *, write: bool = False) -> Any:
        return Cluster()


class ClusterCache(RedisCache):
    """A backend of a project's own, as there are some for clusters."""

    def __init__(self, server: Any, params: Any) -> None:
        super().__init__(server, params)
        self._class = ClusterCacheClient


CLUSTER_CACHE = {"BACKEND": f"{__name__}.ClusterCache", "LOCATION": "redis://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def no_starter_goes_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What failed to start is tried again in a thread, and must not succeed in one of the tests that follow."""
    made: list[Starter] = []
    init = Starter.__init__

    def remembering(starter: Starter) -> None:
        init(starter)
        made.append(starter)

    monkeypatch.setattr(Starter, "__init__", remembering)
    yield
    for starter in made:
        starter.decisions = {}


@pytest.fixture
def project(some_server: RedisServer, settings: Settings) -> Iterator[Settings]:
    """Settings with one fast election on a real server."""
    settings.CACHES = caches(some_server.url)
    settings.LEADER_ELECTIONS = {"default": dict(FAST)}
    yield settings
    elections.reset()
