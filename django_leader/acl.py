"""The smallest Redis user that the elections of a project need, as the command that makes it."""

from __future__ import annotations

import re
from collections.abc import Collection

from django.core.exceptions import ImproperlyConfigured

from . import client
from .conf import COMMAND_PREFIX, DEFAULT_ALIAS, configured
from .protocol.config import Config
from .settings import ElectionSettings, read

USER = "leader on >password"
COMMANDS = (
    "evalsha eval blpop lpop exists xrevrange time get set del pttl pexpire strlen hmget hset zadd zrem zcard zcount "
    "zscore zrange xadd xlen llen rpush info"
)
"""The commands that the scripts call, and that are sent beside them. Some settings need WAIT or SELECT, too."""
ANY = "\ue000"
"""Stands for the name of any command."""


def lines(aliases: Collection[str] = ()) -> dict[str, str]:
    """Return for each cache of these elections the ``ACL SETUSER`` command of its server. Local, connects to nothing.

    Without ``aliases`` for all elections: the declared ones, and those of any command that ``@leader_required`` guards.
    An election that does not use Redis is left out. Raise ``ImproperlyConfigured``.
    """
    found = [read(alias) for alias in aliases or configured()]
    if not aliases:
        commands = read(COMMAND_PREFIX + ANY)
        if DEFAULT_ALIAS in configured() or not client.problem(commands.cache):
            found.append(commands)
    together: dict[str, list[ElectionSettings]] = {}
    for one in found:
        if not one.local:
            together.setdefault(one.cache, []).append(one)
    return {cache: _line(cache, those) for cache, those in together.items()}


def patterns(config: Config) -> list[str]:
    """Return the patterns of the keys of an election, as they stand in the command. Pure."""
    keys = config.keys
    return [f"~{_quoted(name)}" for name in (keys.lock, keys.info)] + [f"~{_quoted(keys.wake.removesuffix('wake'))}*"]


def _line(cache: str, found: list[ElectionSettings]) -> str:
    try:
        pool = client.client(cache).connection_pool
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"LEADER_ELECTIONS[{found[0].alias!r}]: {error}") from error
    words = [pattern for one in found for pattern in patterns(one.config)]
    words += [f"+{command}" for command in COMMANDS.split()]
    words += ["+select"] * bool(pool.connection_kwargs.get("db"))
    words += ["+wait"] * any(one.config.min_replicas for one in found)
    return " ".join(["ACL SETUSER", USER, *words])


def _quoted(name: str) -> str:
    # A space or a quote cannot stand in a pattern, or in the line, so it becomes ``?``: any one character.
    return re.sub(r"[\s'\"]", "?", re.sub(r"[\\*?\[\]^]", r"\\\g<0>", name)).replace(ANY, "*")
