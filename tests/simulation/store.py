"""The data commands of Redis, as far as the scripts use them: keys, types, expiry, and the replies that Lua is given.

A reply is what a script sees: ``bytes``, an ``int``, ``False`` for nil, a ``list``, or the ``OK`` of a status.
Expiry follows the server's wall clock, which the simulation steps as it likes, and is looked at when a key is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

OK = object()
"""The status reply."""


class RedisError(Exception):
    """An error reply."""


class Zset(dict[bytes, float]):
    """Members and their scores."""


class Stream(list[tuple[tuple[int, int], tuple[bytes, ...]]]):
    """Entries, each with its id, in order."""


WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Store:
    """One database. ``now`` is the server's wall clock in microseconds, as the command at hand sees it."""

    def __init__(self) -> None:
        self.values: dict[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}
        self.now = 0
        self.info: dict[str, dict[str, str]] = {}
        self.commands: dict[bytes, Callable[..., Any]] = {
            name[4:].upper().encode(): getattr(self, name) for name in dir(self) if name.startswith("cmd_")
        }

    def copy(self) -> tuple[dict[bytes, Any], dict[bytes, int]]:
        """What a snapshot holds."""
        values = {key: value if type(value) is bytes else type(value)(value) for key, value in self.values.items()}
        return values, dict(self.expires)

    def load(self, copy: tuple[dict[bytes, Any], dict[bytes, int]]) -> None:
        """Replaces all data by a snapshot, which stays as it is."""
        self.values, self.expires = copy
        self.values, self.expires = self.copy()

    def _get(self, key: bytes, kind: type) -> Any:
        when = self.expires.get(key)
        if when is not None and self.now // 1000 > when:
            self._drop(key)
            return None
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise RedisError(WRONGTYPE)
        return value

    def _make(self, key: bytes, kind: type) -> Any:
        value = self._get(key, kind)
        if value is None:
            value = self.values[key] = kind()
        return value

    def _drop(self, key: bytes) -> bool:
        self.expires.pop(key, None)
        return self.values.pop(key, None) is not None

    def alive(self, key: bytes) -> bool:
        """Whether the key exists, of whatever type."""
        when = self.expires.get(key)
        if when is not None and self.now // 1000 > when:
            self._drop(key)
        return key in self.values

    # Keys

    def cmd_time(self) -> Any:
        return [b"%d" % (self.now // 1_000_000), b"%d" % (self.now % 1_000_000)]

    def cmd_pttl(self, key: bytes) -> Any:
        if not self.alive(key):
            return -2
        when = self.expires.get(key)
        return -1 if when is None else max(when - self.now // 1000, 0)

    def cmd_pexpire(self, key: bytes, ms: bytes) -> Any:
        if not self.alive(key):
            return 0
        if _int(ms) <= 0:
            self._drop(key)
        else:
            self.expires[key] = self.now // 1000 + _int(ms)
        return 1

    def cmd_persist(self, key: bytes) -> Any:
        return int(self.alive(key) and self.expires.pop(key, None) is not None)

    def cmd_del(self, *keys: bytes) -> Any:
        return sum(self.alive(key) and self._drop(key) for key in keys)

    def cmd_exists(self, *keys: bytes) -> Any:
        return sum(map(self.alive, keys))

    def cmd_type(self, key: bytes) -> Any:
        names: dict[type, bytes] = {bytes: b"string", dict: b"hash", list: b"list", Zset: b"zset", Stream: b"stream"}
        return {b"ok": names[type(self.values[key])] if self.alive(key) else b"none"}

    def cmd_info(self, *sections: bytes) -> Any:
        lines = []
        for section in sections:
            name = section.decode().lower()
            lines.append(f"# {name.capitalize()}")
            lines += [f"{field}:{value}" for field, value in self.info.get(name, {}).items()]
        return "".join(f"{line}\r\n" for line in lines).encode()

    # Strings

    def cmd_get(self, key: bytes) -> Any:
        value = self._get(key, bytes)
        return False if value is None else value

    def cmd_set(self, key: bytes, value: bytes, *options: bytes) -> Any:
        reply: Any = OK
        if b"GET" in options:
            reply = self.cmd_get(key)
            options = tuple(option for option in options if option != b"GET")
        self.expires.pop(key, None)
        if options:
            if len(options) != 2 or options[0].upper() != b"PX":
                raise RedisError("ERR syntax error")
            if _int(options[1]) <= 0:
                raise RedisError("ERR invalid expire time in 'set' command")
            self.expires[key] = self.now // 1000 + _int(options[1])
        self.values[key] = value
        return reply

    def cmd_strlen(self, key: bytes) -> Any:
        return len(self._get(key, bytes) or b"")

    # Hashes

    def cmd_hget(self, key: bytes, field: bytes) -> Any:
        return (self._get(key, dict) or {}).get(field, False)

    def cmd_hmget(self, key: bytes, *fields: bytes) -> Any:
        value = self._get(key, dict) or {}
        return [value.get(field, False) for field in fields]

    def cmd_hgetall(self, key: bytes) -> Any:
        value = self._get(key, dict) or {}
        return [part for pair in value.items() for part in pair]

    def cmd_hset(self, key: bytes, *flat: bytes) -> Any:
        if not flat or len(flat) % 2:
            raise RedisError("ERR wrong number of arguments for 'hset' command")
        value = self._make(key, dict)
        before = len(value)
        value.update(zip(flat[::2], flat[1::2], strict=True))
        return len(value) - before

    def cmd_hdel(self, key: bytes, *fields: bytes) -> Any:
        value = self._get(key, dict)
        if value is None:
            return 0
        gone = sum(value.pop(field, None) is not None for field in fields)
        if not value:
            self._drop(key)
        return gone

    def cmd_hincrby(self, key: bytes, field: bytes, by: bytes) -> Any:
        value = self._make(key, dict)
        number = _int(value.get(field, b"0"), "ERR hash value is not an integer") + _int(by)
        value[field] = b"%d" % number
        return number

    # Sorted sets

    def cmd_zadd(self, key: bytes, *flat: bytes) -> Any:
        scores = [_float(score) for score in flat[::2]]
        value = self._make(key, Zset)
        before = len(value)
        value.update(zip(flat[1::2], scores, strict=True))
        return len(value) - before

    def cmd_zrem(self, key: bytes, *members: bytes) -> Any:
        return self._zremove(key, [member for member in members if member in (self._get(key, Zset) or ())])

    def _zremove(self, key: bytes, members: list[bytes]) -> int:
        value = self._get(key, Zset)
        for member in members:
            del value[member]
        if value is not None and not value:
            self._drop(key)
        return len(members)

    def cmd_zcard(self, key: bytes) -> Any:
        return len(self._get(key, Zset) or ())

    def cmd_zscore(self, key: bytes, member: bytes) -> Any:
        score = (self._get(key, Zset) or {}).get(member)
        return False if score is None else b"%.17g" % score

    def cmd_zcount(self, key: bytes, low: bytes, high: bytes) -> Any:
        return len(self._zwithin(key, low, high))

    def _zwithin(self, key: bytes, low: bytes, high: bytes) -> list[bytes]:
        least, most = _float(low.removeprefix(b"(")), _float(high.removeprefix(b"("))
        return [
            member
            for member, score in (self._get(key, Zset) or {}).items()
            if (least < score if low[:1] == b"(" else least <= score)
            and (score < most if high[:1] == b"(" else score <= most)
        ]

    def cmd_zrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Any:
        pairs = (self._get(key, Zset) or {}).items()
        ordered = [member for _, member in sorted((score, member) for member, score in pairs)]
        if not options:
            return _slice(ordered, first, last)
        if len(options) != 4 or options[:2] != (b"BYSCORE", b"LIMIT"):
            raise RedisError("ERR syntax error")
        within, offset = set(self._zwithin(key, first, last)), _int(options[2])
        return [member for member in ordered if member in within][offset : offset + _int(options[3])]

    def cmd_zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> Any:
        return self._zremove(key, self._zwithin(key, low, high))

    # Streams

    def cmd_xadd(self, key: bytes, *args: bytes) -> Any:
        limit = 0
        if args[0].upper() == b"MAXLEN":
            approximate = args[1] == b"~"
            # With ~ Redis lets go of whole nodes of a hundred entries only.
            limit = _int(args[1 + approximate]) + 100 * approximate
            args = args[2 + approximate :]
        if args[0] != b"*" or len(args) % 2 == 0:
            raise RedisError("ERR wrong number of arguments for 'xadd' command")
        value = self._make(key, Stream)
        ms = self.now // 1000
        last = value[-1][0] if value else (0, 0)
        entry = (ms, 0) if ms > last[0] else (last[0], last[1] + 1)
        value.append((entry, args[1:]))
        if limit and len(value) > limit:
            del value[:100]
        return b"%d-%d" % entry

    def cmd_xlen(self, key: bytes) -> Any:
        return len(self._get(key, Stream) or ())

    # Lists

    def cmd_llen(self, key: bytes) -> Any:
        return len(self._get(key, list) or ())

    def cmd_rpush(self, key: bytes, *elements: bytes) -> Any:
        value = self._make(key, list)
        value.extend(elements)
        return len(value)

    def cmd_lpop(self, key: bytes) -> Any:
        value = self._get(key, list)
        if not value:
            return False
        element = value.pop(0)
        if not value:
            self._drop(key)
        return element

    def cmd_lrange(self, key: bytes, first: bytes, last: bytes) -> Any:
        return _slice(self._get(key, list) or [], first, last)


def _slice(values: list[bytes], first: bytes, last: bytes) -> list[bytes]:
    start, stop = _int(first), _int(last)
    start = max(start + len(values), 0) if start < 0 else start
    stop = stop + len(values) if stop < 0 else stop
    return values[start : stop + 1]


def _int(text: bytes, error: str = "ERR value is not an integer or out of range") -> int:
    # Unlike int(), Redis takes neither blanks nor a plus sign.
    if text.removeprefix(b"-").isdigit():
        return int(text)
    raise RedisError(error)


def _float(text: bytes) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise RedisError("ERR value is not a valid float")
    return value
