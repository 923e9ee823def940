"""Fenced writes to Redis: the scripts that check the term of the writer, and write, in one step. No I/O.

NOT guaranteed here:

- Anything of a write that does not go through a fence.
- Anything about the time before a fence knows of the new term. At the election's own server and database it knows at
  once, because the state of the election is the mark. At another one it knows when the new leader has raised the mark,
  which it does before its gain callbacks are called. If that server cannot be reached then, it knows with the first
  fenced write of the new term.
- Anything, if a failover of the target or a restart with older data takes the mark back to an earlier term. Writes of
  that term are accepted until the leader writes. At the election's own server they are accepted until a candidate or
  the leader asks it next, and for the rest of the lease that was restored at most.
- Anything of a mark that others forge. If it is too high, every write is refused until somebody deletes it.

What is guaranteed of a mark that was lost altogether, by FLUSHALL or an eviction: a write that finds none is refused.
Its process asks the election's Redis whether its term leads, and only then raises the mark anew and writes again. It
may be paused between these two, as it may be before it raises the mark at the beginning of its term. If the mark is
lost during such a pause, and a later leader has neither begun nor written since, the late write is accepted. So fence
data on a server that neither evicts keys nor is cleared as a cache.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from .config import Keys
from .scripts import SOURCES, Script
from .template import Request, script

STALE, UNMARKED = "STALETOKEN", "UNMARKED"
"""The codes of the errors by which ``fence.lua`` refuses a write."""
COMMAND = "return redis.call(unpack(ARGV))"
"""The body of a write that is one command. Its ARGV are the words of the command."""
INCREASE = "if redis.call('EXISTS', KEYS[1]) == 0 then return false end return redis.call('INCRBY', KEYS[1], ARGV[1])"
"""The body that increases a number only if it is there, as a cache does."""


@lru_cache(maxsize=128)
def fenced(body: str) -> Script:
    """Return the script that runs ``body`` behind the check of the term. Local."""
    source = f"{SOURCES['fence']}\n{body}"
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def mark_key(keys: Keys) -> str:
    """Return the key of the mark at a server that is not the election's own."""
    return f"{keys.wake.removesuffix('wake')}fence"


def raise_mark(keys: Keys, token: int) -> Request:
    """Raise the mark at a server that is not the election's own. The answer is None."""
    return Request(script("mark", (mark_key(keys),), (token,), lambda reply: None))
