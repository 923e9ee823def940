"""The classic design, as it was written in Go: SET NX PX, a follower that polls, a leader that renews by a script."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Callable
from datetime import datetime, timezone

import redis

from benchmarks.peers import KEY, TTL
from benchmarks.peers.contender import Contender

RENEW = """
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("PEXPIRE", KEYS[1], ARGV[2]) else return 0 end
"""
RELEASE = """
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end
"""


class DirectPort(Contender):
    """Its parts in Python."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        super().__init__(gained)
        self._client = redis.Redis.from_url(address)
        self._renew = self._client.register_script(RENEW)
        self._release = self._client.register_script(RELEASE)
        self._candidate_id = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._ttl = int(TTL * 1000)
        self._since = ""

    def acquire(self) -> bool:
        """One attempt."""
        if not self._client.set(KEY, self._candidate_id, nx=True, px=self._ttl):
            return False
        self._since = _now()
        self._publish()
        return True

    def renew(self) -> bool:
        """Prolongs the lock, then writes who holds it."""
        held = bool(self._renew(keys=[KEY], args=[self._candidate_id, self._ttl]))
        if held:
            self._publish()
        return held

    def release(self) -> None:
        """Delete the lock if it is ours, then the info."""
        if self._release(keys=[KEY], args=[self._candidate_id]):
            self._client.delete(f"{KEY}:info")

    def _publish(self) -> None:
        info = {
            "instance_id": self._candidate_id,
            "hostname": platform.node(),
            "started_at": self._since,
            "last_heartbeat": _now(),
        }
        self._client.set(f"{KEY}:info", json.dumps(info), px=self._ttl)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
