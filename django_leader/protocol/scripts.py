"""The Lua scripts as Redis is given them.

NOT guaranteed here: what the scripts do. Each documents that at its top.

They are read when this module is imported, so a process whose package is replaced keeps the scripts with which it
began.

They tell Redis 7 that they may run when its memory is full, because they rewrite a few keys of bounded size, and may
well free some memory. Redis 6.2 has no way to be told.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A Lua script and the digest by which Redis knows it."""

    source: str
    sha: str


SOURCES = {
    file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
    for file in (files(__package__) / "lua").iterdir()  # no path: the package may lie in a zip
}
STATE_SCRIPTS = ("campaign", "reclaim", "release")
WITH_FLAGS = (*STATE_SCRIPTS, "renew", "poll", "claim", "once", "take", "finish", "mark")
"""Scripts that are sent with ``FLAGS``, so that a full memory refuses no heartbeat, no job and no fence."""
FLAGS = "#!lua flags=allow-oom\n"
NOT_UNDERSTOOD = "near '#'"
"""A part of the error of every server that does not know ``FLAGS``."""


@cache
def script(name: str, flags: str = "") -> Script:
    """Return the script ``lua/<name>.lua``, after the common beginning if it has one."""
    names = ("state", name) if name in STATE_SCRIPTS else (name,)
    source = flags + "".join(SOURCES[part] for part in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
