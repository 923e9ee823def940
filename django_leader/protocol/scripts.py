"""The Lua scripts as Redis is given them.

NOT guaranteed here: what they do; that stands at the top of each.

They are read when this module is imported: a process whose package is replaced under it keeps those it has begun with.

They say to Redis 7 that they may run when its memory is full: they rewrite a few keys of bounded size, and may well
free some. Redis 6.2 does not know how to be told so.
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
MAY_WRITE = (*STATE_SCRIPTS, "renew", "poll")
FLAGS = "#!lua flags=allow-oom\n"
NOT_UNDERSTOOD = "near '#'"
"""What every server that does not know ``FLAGS`` says of them."""


@cache
def script(name: str, flags: str = "") -> Script:
    """The script ``lua/<name>.lua``, behind the common beginning if it has one."""
    names = ("state", name) if name in STATE_SCRIPTS else (name,)
    source = flags + "".join(SOURCES[part] for part in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
