"""A Redis of one process: the scripts as they are, run by Lua 5.1 over ``Store``, with the faults of a server.

Conversions are Redis' own: numbers that a script returns lose their fraction, nil ends an array, false is nil, and
an error aborts the script but leaves what it has written. A script is compiled once per process and shared.
"""

from __future__ import annotations

from typing import Any

from lupa import lua51  # type: ignore[import-untyped]

from .store import OK, RedisError, Store

MOST_TABLES = 1000
"""Of keys that are kept for the next call."""

_PRELUDE = """
local dispatch = ...
local function raised(reply)
  return type(reply) == 'table' and reply.err ~= nil
end
redis = {
  call = function(...)
    local reply = dispatch(...)
    if raised(reply) then error(reply, 0) end
    return reply
  end,
  pcall = dispatch,
  error_reply = function(text) return {err = text} end,
  status_reply = function(text) return {ok = text} end,
  log = function() end,
  sha1hex = function() error('not modelled') end,
  LOG_WARNING = 3, LOG_NOTICE = 2, LOG_VERBOSE = 1, LOG_DEBUG = 0,
}
return function(script, keys, argv)
  KEYS, ARGV = keys, argv
  local ok, reply = pcall(script)
  if ok or raised(reply) then return reply end
  return {err = 'ERR ' .. tostring(reply)}
end
"""


class _Runtime:
    """The Lua of this process. One for all servers: making one is slow, and a script keeps nothing in it."""

    def __init__(self) -> None:
        self.lua = lua51.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self.table = self.lua.table_from
        self.ok = self.table({b"ok": b"OK"})
        self.store = Store()
        self.run = self.lua.execute(_PRELUDE, self.dispatch)
        self.compile = self.lua.eval("loadstring")
        self.scripts: dict[str, Any] = {}
        self.keys: dict[tuple[bytes, ...], Any] = {}

    def dispatch(self, name: bytes, *args: Any) -> Any:
        """One command of a script."""
        command = self.store.commands.get(name) or self.store.commands.get(name.upper())
        try:
            if command is None:
                raise RedisError(f"ERR Unknown Redis command called from script: {name!r}")
            reply = command(*[arg if type(arg) is bytes else _argument(arg) for arg in args])
        except RedisError as error:
            return self.table({b"err": str(error).encode()})
        except TypeError as error:
            raise AssertionError(f"{name!r}{args}: {error}") from error
        if type(reply) is list or type(reply) is dict:
            return self.table(reply)
        return self.ok if reply is OK else reply

    def script(self, source: str) -> Any:
        """The compiled script."""
        if source not in self.scripts:
            # The line with the flags of a script is Redis' own and no Lua.
            code = "--" + source if source.startswith("#!") else source
            loaded = self.compile(code.encode(), b"@user_script")
            if isinstance(loaded, tuple):
                raise AssertionError(loaded[1])
            self.scripts[source] = loaded
        return self.scripts[source]

    def eval(self, store: Store, source: str, keys: tuple[bytes, ...], args: tuple[Any, ...]) -> Any:
        """Runs a script on the data of ``store``. Raises ``RedisError`` for an error reply."""
        self.store = store
        known = self.keys.get(keys)
        if known is None:
            if len(self.keys) >= MOST_TABLES:  # each candidate has an inbox
                self.keys.clear()
            known = self.keys[keys] = self.table(keys)
        argv = self.table([arg if type(arg) is bytes else str(arg).encode() for arg in args])
        return _reply(self.run(self.script(source), known, argv))


_runtime: list[_Runtime] = []


def runtime() -> _Runtime:
    """The Lua of this process, made when it is needed first."""
    if not _runtime:
        _runtime.append(_Runtime())
    return _runtime[0]


def _argument(arg: Any) -> bytes:
    if type(arg) is int:
        return b"%d" % arg
    if type(arg) is float:
        return b"%.17g" % arg
    raise RedisError("ERR Lua redis lib command arguments must be strings or integers")


def _reply(value: Any) -> Any:
    kind = type(value)
    if kind is bytes or kind is int:
        return value
    if kind is float:
        return int(value)
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if (error := value[b"err"]) is not None:
        raise RedisError(error.decode())
    if (status := value[b"ok"]) is not None:
        return status
    items = []
    for index in range(1, len(value) + 1):
        item = value[index]
        if item is None:
            break
        items.append(item if type(item) is bytes else _reply(item))
    return items


class Server:
    """One server: its data, its clock, its identity, and whether it answers."""

    def __init__(self, name: str = "0") -> None:
        self.store = Store()
        self.runtime = runtime()
        self.name, self.lives = name, 0
        self.offset, self.rate = 1_800_000_000.0, 1.0
        self.origin = 0.0
        self.refuses = ""
        """The error with which every script ends before it does anything."""
        self.down = False
        self.hung_until = 0.0
        self.master: Server | None = None
        self.linked = True
        """Whether it follows its master."""
        self.replicas: list[str] = []
        """The addresses of those that are attached."""
        self.syncs = 0
        self.after_join: int | None = None
        """What the counter shows after each join, because a monitor resets it then; None if nobody does."""
        self.restarted()

    def wall(self, now: float) -> float:
        """What its clock shows at the true instant ``now``, in seconds."""
        return self.offset + self.rate * (now - self.origin)

    def drift(self, now: float, rate: float) -> None:
        """Its clock runs at ``rate`` from ``now`` on."""
        self.offset, self.origin, self.rate = self.wall(now), now, rate

    def restarted(self) -> None:
        """A new life begins: another identity, and the counters at zero."""
        self.lives += 1
        self.syncs = 0
        self._describe()

    def attached(self, replicas: list[str]) -> None:
        """These replicas are there."""
        self.replicas = replicas
        self._describe()

    def synchronised(self, replicas: list[str]) -> None:
        """One has joined, so that these are there now."""
        self.syncs = self.syncs + 1 if self.after_join is None else self.after_join
        self.attached(replicas)

    def reset_counters(self, after_join: int | None) -> None:
        """CONFIG RESETSTAT, and again right before each join to come (1), right after it (0), or never (None)."""
        self.syncs, self.after_join = 0, after_join
        self._describe()

    def _describe(self) -> None:
        identity = f"{self.name}{self.lives:x}".encode().hex().ljust(40, "0")[:40]
        described = {
            f"slave{number}": f"ip={name},port=6379,state=online,offset=7,lag=0"
            for number, name in enumerate(self.replicas)
        }
        count = str(len(self.replicas))
        self.store.info = {
            "replication": {"role": "master", "connected_slaves": count, **described, "master_replid": identity},
            "stats": {"sync_full": str(self.syncs), "sync_partial_ok": "0", "sync_partial_err": "0"},
        }

    def eval(self, now: float, source: str, keys: tuple[bytes, ...], args: tuple[Any, ...]) -> Any:
        """Runs a script at the true instant ``now``. Raises ``RedisError``."""
        if self.refuses:
            raise RedisError(self.refuses)
        self.store.now = int(self.wall(now) * 1e6)
        return self.runtime.eval(self.store, source, keys, args)
