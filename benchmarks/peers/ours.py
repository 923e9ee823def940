"""This package."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import redis

from benchmarks.peers import HEARTBEAT, KEY, RETRY, TTL
from django_leader import Config, LeaderElection

INFO_KEY = f"{KEY}:info"


def config(*, takeover: bool = True, key: str = KEY) -> Config:
    """Everybody's durations, without a quarantine: the servers are started empty, for us alone."""
    wanted: dict[str, Any] = {"same_host_takeover": takeover}
    names = {field.name for field in dataclasses.fields(Config)}
    more = {name: value for name, value in wanted.items() if name in names}
    return Config(
        key,
        f"{key}:info",
        lock_ttl=TTL,
        heartbeat_interval=HEARTBEAT,
        retry_interval=RETRY,
        quarantine=0,
        **more,
    )


class Ours:
    """A candidate of django-leader."""

    def __init__(self, address: str, gained: Callable[[], None], *, takeover: bool = True, key: str = KEY) -> None:
        logging.getLogger("django_leader").setLevel(logging.CRITICAL)  # the others say nothing, either
        self.election = LeaderElection(redis.Redis.from_url(address), config(takeover=takeover, key=key))
        self.election.on_become_leader(gained)
        self.start, self.stop, self.leads = self.election.start, self.election.stop, self.election.is_leader
