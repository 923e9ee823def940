"""The election's operations at Redis: one method, one script, one round trip.

NOT guaranteed here: that an operation which raised was not executed. ``RedisUnavailable`` means that its outcome is
unknown, and the connection is closed by then. What the scripts guarantee stands at the top of each.

Every reply repeats a number that its request carried. A reply to anything else is an error, not an answer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from .channel import Channel, Connect, Waker
from .config import Config, inbox
from .exceptions import RedisUnavailable
from .records import Answer, ElectionStatus, Event, LeaderInfo, instance_of

_requests = itertools.count(1)


class Script(NamedTuple):
    """A Lua script and the digest by which Redis knows it."""

    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script ``lua/<name>.lua``."""
    source = (Path(__file__).parent / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class Lease:
    """Speaks to Redis about one election, on one connection, for one thread."""

    def __init__(self, connect: Connect, config: Config, waker: Waker | None = None) -> None:
        self._timing, self._keys = config.timing, config.keys
        self.channel = Channel(connect, self._timing.operation, waker)

    def campaign(self, me: str, floor: int, info: LeaderInfo) -> Answer:
        """One attempt to lead. One round trip. Raises ``RedisUnavailable``."""
        return self._step("campaign", me, floor, info)

    def renew(self, me: str, token: int, info: LeaderInfo) -> Answer:
        """The heartbeat of the term ``token``. One round trip. Raises ``RedisUnavailable``."""
        return self._step("renew", me, token, info)

    def release(self, me: str, token: int, reason: str, *, leave: bool, hold: float = 0) -> bool:
        """Gives the term ``token`` back, and with ``leave`` takes part no longer. One round trip.

        ``hold``: seconds for which nobody may lead yet. Gives whether there was a lease of ours to give back.
        Raises ``RedisUnavailable``.
        """
        reply = self._run("release", self._keys, me, token, reason, int(leave), math.ceil(hold * 1000))
        return bool(reply[1] == b"released")

    def status(self) -> ElectionStatus:
        """Who leads. One round trip. Raises ``RedisUnavailable``."""
        _, holder, left, info, token, candidates = self._run("status", self._keys)
        leader = LeaderInfo.from_json(_decode(info), instance_of(_decode(holder))) if holder else None
        return ElectionStatus(leader, left / 1000, int(token), candidates)

    def history(self, limit: int) -> list[Event]:
        """The newest ``limit`` changes, the newest first. One round trip. Raises ``RedisUnavailable``."""
        events = []
        for entry, flat in self.channel.call("XREVRANGE", self._keys.events, "+", "-", "COUNT", limit):
            values = dict(zip(map(_decode, flat[::2]), map(_decode, flat[1::2]), strict=False))
            at = datetime.fromtimestamp(int(entry.split(b"-")[0]) / 1000, timezone.utc)
            holder, token = values.get("holder", ""), values.get("token", "")
            events.append(Event(at, values.get("kind", ""), instance_of(holder), int(token) if token.isdigit() else 0))
        return events

    def post(self, to: str, message: dict[str, Any]) -> None:
        """Puts a message into the inbox of the candidacy ``to``. One round trip. Raises ``RedisUnavailable``."""
        lifetime = math.ceil(self._timing.ttl * 1000)
        self._run("post", (inbox(self._keys, to),), json.dumps(message), lifetime)

    def wait(self, me: str, *, wake: bool, until: float) -> dict[str, Any] | None:
        """Waits for a message to ``me``, and with ``wake`` for a wake-up, until the instant ``until``.

        Gives the message, ``{"wake": place}`` for a wake-up, or None when the wait ended otherwise. Raises
        ``RedisUnavailable``.
        """
        keys = [inbox(self._keys, me), self._keys.wake][: 1 + wake]
        element = self.channel.wait(keys, until)
        if element is None:
            return None
        key, value = element
        if key.decode() != keys[0]:
            return {"wake": int(value == b"1")}
        try:
            message = json.loads(value)
        except ValueError:
            message = None
        return message if isinstance(message, dict) else {}

    def _step(self, name: str, me: str, token: int, info: LeaderInfo) -> Answer:
        timing = self._timing
        ttl = math.floor(timing.ttl * 1000)
        lifetime = math.ceil((timing.ttl + max(timing.retry, timing.heartbeat)) * 1000)
        described = info.as_dict()
        described.pop("fencing_token")  # the script knows it, and adds it
        text = json.dumps(described, ensure_ascii=False)
        _, verdict, granted, holder, left, candidates, twin = self._run(
            name, self._keys, me, ttl, token, text, lifetime
        )
        return Answer(_decode(verdict), int(granted), _decode(holder), left / 1000, candidates, _decode(twin))

    def _run(self, name: str, keys: tuple[str, ...], *args: Any) -> Any:
        echo = str(next(_requests)).encode()
        source, sha = script(name)
        tail = (len(keys), *keys, echo, *args)
        try:
            reply = self.channel.call("EVALSHA", sha, *tail)
        except NoScriptError:
            # Redis has not executed anything: it asks for the source.
            reply = self.channel.call("EVAL", source, *tail)
        if not isinstance(reply, list) or not reply or reply[0] != echo:
            self.channel.drop()
            raise RedisUnavailable(f"the reply to {name} does not belong to its request")
        return reply


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "replace")
