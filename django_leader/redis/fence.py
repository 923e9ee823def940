"""Sends fenced writes through a client of the application.

NOT guaranteed here: that a write whose reply did not come was not done, or was done once. The application's client may
send it again, as it does with any other command. ``protocol.fence`` says what a fence holds off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from django_leader.protocol.fence import STALE, UNMARKED
from django_leader.protocol.scripts import Script


class RefusedWrite(Exception):
    """The fence has refused a write. ``code``: ``STALE`` or ``UNMARKED``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def write(client: redis.Redis, script: Script, keys: Sequence[Any], words: Sequence[Any]) -> Any:
    """Run the script of a fenced write, and return its reply as ``client`` reads it.

    One round trip on a connection of ``client``, two if the server does not know the script. Raise ``RefusedWrite``,
    and what ``client`` raises.
    """
    try:
        try:
            return client.evalsha(script.sha, len(keys), *keys, *words)
        except NoScriptError:
            return client.eval(script.source, len(keys), *keys, *words)
    except ResponseError as error:
        for code in (STALE, UNMARKED):
            if str(error).startswith(code):
                raise RefusedWrite(code) from None
        raise
