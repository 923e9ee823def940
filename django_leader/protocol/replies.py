"""What the replies of the scripts mean. Pure.

NOT guaranteed here: that what a reply says is true. Other programs may have written to the keys.

A function of this module raises an exception of any kind for a reply that the script cannot have given.
``Request.read`` turns that into the documented error.
"""

from __future__ import annotations

import json
import math
from typing import Any

from .config import Timing
from .records import UNPRINTABLE, Answer, ElectionStatus, Event, LeaderInfo, instance_of, parse_number

LONGEST_MESSAGE = 4096
"""Bytes of a message in an inbox, at most. Our messages have an instance id, of at most 255 characters."""
LONGEST_NUMBER = 24
"""Characters of a number, at most. A script replies with 17, and Python refuses to read some thousands."""


def answer(reply: bytes) -> Answer:
    """Return the answer to a campaign or a reclaim. Local."""
    _, verdict, token, left, candidates, at, version, duration, began, duplicate, process, holder = _decode(
        reply
    ).split("\n", 11)
    if max(map(len, (token, left, candidates, at, duration, began))) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return Answer(
        verdict,
        int(token),
        holder,
        int(left) / 1000,
        int(candidates),
        duplicate,
        int(at) / 1000,
        version,
        int(duration) / 1000,
        process,
        began=int(began) / 1000,
    )


def polled(reply: bytes) -> Answer | None:
    """Return the answer to a poll; None if the script was unsure. Local."""
    return None if reply.endswith(b"\nunsure") else answer(reply)


def renewed(reply: bytes, candidate_id: str, token: int, timing: Timing) -> Answer | None:
    """Return the answer to a heartbeat of the term ``token``; None if the script was unsure. Local."""
    _, verdict, now, version, mail = reply.split(b" ")
    if verdict != b"renewed":
        return None
    if len(now) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    ttl, at = math.floor(timing.ttl * 1000) / 1000, int(now) / 1000
    return Answer("renewed", token, candidate_id, ttl, 0, "", at, _decode(version), ttl, mail=mail == b"1")


def released(reply: bytes) -> bool | Answer:
    """Return whether there was a lease to release; an answer if the request came too late. Local."""
    return answer(reply) if b"\nlate\n" in reply else reply.endswith(b"released")


def server_info(reply: bytes) -> dict[str, str]:
    """Return the names and values of ``INFO``. Local."""
    return {name: value for name, _, value in (line.partition(":") for line in _decode(reply).splitlines())}


def status(reply: list[Any]) -> ElectionStatus:
    """Return who leads. Local."""
    _, holder, left, info, token, candidates, kind = reply
    leader = LeaderInfo.from_json(_decode(info), instance_of(_decode(holder))) if holder else None
    quarantined = kind == b"quarantine" and not leader and left > 0
    return ElectionStatus(leader, left / 1000, parse_number(_decode(token)), int(candidates), quarantined)


def history(reply: list[bytes]) -> list[Event]:
    """Return the events. Local."""
    _, *texts = map(_decode, reply)
    return [Event.from_texts(*entry) for entry in zip(*[iter(texts)] * 5, strict=False)]


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def message(text: bytes) -> dict[str, Any]:
    """Parse a message from an inbox; return an empty dict if it is garbage. Local."""
    try:
        data = json.loads(text) if len(text) <= LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        data = None
    # Only the wake list can wake a candidate. A "wake" in an inbox message is garbage.
    found = {name: value for name, value in data.items() if name != "wake"} if isinstance(data, dict) else {}
    duplicate = found.get("duplicate")
    # Our answer is sent to this id.
    return {} if isinstance(duplicate, str) and UNPRINTABLE.search(duplicate) else found
