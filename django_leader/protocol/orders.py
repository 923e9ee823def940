"""Orders: what an operator asks the leader to do, from any process. Today that is to run a job now. No I/O.

NOT guaranteed here: that an order is carried out. It may be lost on its way, and the process that gave it then
learns that nobody has begun it.

An order is a hash of its own in Redis (``order.lua``), and a message in the inbox of the leader, which looks there with
each heartbeat. It names the term that may carry it out, because only the process of that term can know what it has
carried out already, whatever becomes of the data. If nobody has begun it in time, it is withdrawn, in one step in
Redis, so that the answer is certain. ``slots`` has the rule for runs of jobs (J11).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from .config import Keys, ValidConfig, inbox
from .records import UNPRINTABLE, instance_of, parse_number, printable
from .template import Request, script

KEPT = 86_400.0
"""Seconds for which an order is kept: a day."""
LONGEST_BY = 200
"""Characters of who has given an order, at most."""
RUN_JOB = "run-job"
IDS = re.compile(r"[0-9A-Za-z]{1,64}")


class Order(NamedTuple):
    """An order to run a job now."""

    order_id: str
    """Of ``slots.new_claim_id``. It is the id of the run, too."""
    name: str
    """Of the job."""
    by: str
    """Who has given it."""


class Look(NamedTuple):
    """What has become of an order, and who leads. What cannot be read is empty or 0."""

    at: float
    """Seconds on the server's clock."""
    holder: str
    """The candidacy that leads; empty if none does."""
    token: int
    """Of its term."""
    state: str
    """``waiting``, ``taken``, ``withdrawn`` or the outcome; empty if there is no such order. See ``order.lua``."""
    given: int
    """When it was given, in milliseconds on the server's clock."""
    instance_id: str
    """The process that has taken it."""
    took: float
    """Seconds."""
    error: str


def order_key(keys: Keys, order_id: str) -> str:
    """Return the key of an order."""
    return f"{keys.wake.removesuffix('wake')}order:{order_id}"


def look(keys: Keys, order_id: str, *, withdraw: bool = False) -> Request:
    """Ask what has become of an order. ``withdraw``: have nobody begin it any more. The answer is a ``Look``."""

    def parse(reply: Any) -> Look:
        texts = [value.decode("utf-8", "replace") for value in reply]
        _, at, holder, token, state, given, process, took, error = texts
        return Look(
            int(at) / 1000,
            holder,
            parse_number(token),
            printable(state),
            parse_number(given),
            printable(instance_of(process)) if process else "",
            parse_number(took) / 1000,
            printable(error),
        )

    return Request(script("look", (keys.state, order_key(keys, order_id)), (int(withdraw),), parse))


def give(config: ValidConfig, order: Order, seen: Look, not_after: float) -> Request:
    """Give an order to the term that ``seen`` has shown. The answer is ``given``, ``changed`` or ``late``.

    ``not_after``: seconds on the server's clock up to which it may be begun. See ``order.lua``.
    """
    words = {"order": order.order_id, "what": RUN_JOB, "name": order.name, "by": order.by}
    message = json.dumps(words, ensure_ascii=False)
    keys = config.keys.state, order_key(config.keys, order.order_id), inbox(config.keys, seen.holder)
    term = seen.holder, seen.token, math.floor(not_after * 1000), math.ceil(KEPT * 1000)
    return Request(script("order", keys, (*term, message, RUN_JOB, order.name, order.by), _given))


def received(message: dict[str, Any]) -> Order | None:
    """Return the order in a message from an inbox; None if it is none, or one that this release does not know."""
    order_id, name, by = message.get("order"), message.get("name"), message.get("by")
    if not (isinstance(order_id, str) and isinstance(name, str) and isinstance(by, str)):
        return None
    if message.get("what") != RUN_JOB or not IDS.fullmatch(order_id) or UNPRINTABLE.search(name):
        return None
    return Order(order_id, name, printable(by, LONGEST_BY))


def _given(reply: bytes) -> str:
    verdict = reply.split(b"\n")[1].decode()
    if verdict not in ("given", "changed", "late"):
        raise ValueError("no answer to an order")
    return verdict
