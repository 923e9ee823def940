"""How the election speaks to its scripts: the words of a request, and what a reply means.

NOT guaranteed here: anything of the election; the scripts say what they do with the words.

What is sent all day long (a heartbeat, a look, a wait), or in a hurry (a campaign), is packed once, with holes for what
differs each time. What is put into a hole has the length of the hole, since Redis is told the length of each word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from .config import LONGEST_DURATION, Keys, Timing, inbox, lifetime
from .records import UNPRINTABLE, Answer, LeaderInfo, Preconditions, utc_now

REQUEST_ID, TIME = b"\0" * 12, b"\1" * 32
"""The holes: the number of the request, and a time of day."""
NOT_AFTER = b"\2" * 13
"""The hole for the server's time after which the request is too old, in milliseconds."""
SECONDS = b"\3" * 12
"""The hole for how long to wait."""

LONGEST_MESSAGE = 4096
"""Bytes of a message into an inbox. What we send has an instance id, of at most 255 characters."""
LONGEST_NUMBER = 24
"""Characters. What a script replies has 17, and Python refuses to read some thousands."""

Pack = Callable[..., bytes]
Words = tuple[Any, ...]


class Packed(NamedTuple):
    """A request with holes, and its words, for a server that does not know its script."""

    pieces: tuple[bytes, ...]
    words: tuple[bytes, ...]
    placeholders: tuple[bytes, ...]

    def filled(self, *values: bytes) -> bytes:
        """The request, with ``values`` in the holes. Local."""
        parts = [self.pieces[0]]
        for value, piece in zip(values, self.pieces[1:], strict=True):
            parts += value, piece
        return b"".join(parts)

    def words_filled(self, *values: bytes) -> list[bytes]:
        """The words behind the name of the script, with ``values`` in their holes. Local."""
        words, waiting = [], list(zip(self.placeholders, values, strict=True))
        for word in self.words:
            while waiting and waiting[0][0] in word:
                word = word.replace(*waiting.pop(0), 1)
            words.append(word)
        return words


def _packed(pack: Pack, placeholders: tuple[bytes, ...], command: Words, words: Words = ()) -> Packed:
    encoded = tuple(word if isinstance(word, bytes) else str(word).encode() for word in words)
    rest, pieces = pack(*command, *encoded), []
    for hole in placeholders:
        piece, _, rest = rest.partition(hole)
        pieces.append(piece)
    return Packed((*pieces, rest), encoded, placeholders)


def packed_campaign(
    pack: Pack,
    sha: str,
    keys: Keys,
    timing: Timing,
    candidate_id: str,
    preconditions: Preconditions,
    info: LeaderInfo,
    process: str,
) -> Packed:
    """The campaigns that say the same. Holes: number, latest, now, and now."""
    described = _described(info, "started_at", "last_heartbeat")
    words = _campaign(timing, candidate_id, preconditions, NOT_AFTER, described, process)
    return _packed(pack, (REQUEST_ID, NOT_AFTER, TIME, TIME), ("EVALSHA", sha), (len(keys), *keys, REQUEST_ID, *words))


def packed_release(
    pack: Pack,
    sha: str,
    keys: Keys,
    timing: Timing,
    candidate_id: str,
    token: int,
    reason: str,
    preconditions: Preconditions,
    **how: Any,
) -> Packed:
    """The releases that say the same. Holes: number, latest."""
    words = _release(timing, candidate_id, token, reason, preconditions, NOT_AFTER, **how)
    return _packed(pack, (REQUEST_ID, NOT_AFTER), ("EVALSHA", sha), (len(keys), *keys, REQUEST_ID, *words))


def packed_poll(pack: Pack, sha: str, keys: Keys, timing: Timing, candidate_id: str) -> Packed:
    """The looks of a candidate that follows. Hole: number."""
    return _packed(pack, (REQUEST_ID,), ("EVALSHA", sha), (4, *keys[:4], REQUEST_ID, candidate_id, lifetime(timing)))


def packed_heartbeat(
    pack: Pack, sha: str, keys: Keys, timing: Timing, candidate_id: str, token: int, info: LeaderInfo
) -> Packed:
    """The heartbeats of the term ``token``. Holes: number, time."""
    described = _described(replace(info, fencing_token=token), "last_heartbeat")
    words = (
        4,
        *keys[:3],
        inbox(keys, candidate_id),
        REQUEST_ID,
        candidate_id,
        token,
        _milliseconds(timing.ttl),
        described,
    )
    return _packed(pack, (REQUEST_ID, TIME), ("EVALSHA", sha), words)


def packed_wait(pack: Pack, keys: list[str]) -> Packed:
    """The wait for an element in one of the lists. Hole: seconds."""
    return _packed(pack, (SECONDS,), ("BLPOP", *keys, SECONDS))


def campaign_arguments(
    timing: Timing, candidate_id: str, preconditions: Preconditions, info: LeaderInfo, process: str = ""
) -> Words:
    """What the script takes behind the number. Local."""
    return _campaign(
        timing, candidate_id, preconditions, _milliseconds(preconditions.not_after), _described_now(info), process
    )


def reclaim_arguments(
    timing: Timing,
    candidate_id: str,
    token: int,
    info: LeaderInfo,
    preconditions: Preconditions,
    process: str = "",
    *,
    confirm: bool,
) -> Words:
    """Return what the script takes behind the number. Local.

    Of ``preconditions`` the acknowledged version and ``not_after`` count.
    """
    who, what = (
        _who(timing, candidate_id, token, _milliseconds(preconditions.not_after)),
        _what(timing, _described_now(info), process),
    )
    return (*who, *what, int(confirm), preconditions.acknowledged_version)


def release_arguments(
    timing: Timing,
    candidate_id: str,
    token: int,
    reason: str,
    preconditions: Preconditions,
    *,
    leave: bool,
    hold: float,
    clocks: str = "",
) -> Words:
    """What the script takes behind the number. Local."""
    how: dict[str, Any] = {"leave": leave, "hold": hold, "clocks": clocks}
    return _release(timing, candidate_id, token, reason, preconditions, _milliseconds(preconditions.not_after), **how)


def parse(reply: bytes) -> Answer:
    """What a script answered to a campaign, a look or a renewal. Raises ``ValueError``. Local."""
    _, verdict, token, left, candidates, at, version, duration, duplicate, process, holder = decode(reply).split(
        "\n", 10
    )
    if max(map(len, (token, left, candidates, at, duration))) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    seconds, server, lasts = int(left) / 1000, int(at) / 1000, int(duration) / 1000
    return Answer(verdict, int(token), holder, seconds, int(candidates), duplicate, server, version, lasts, process)


def parse_renewed(reply: bytes, candidate_id: str, token: int, timing: Timing) -> Answer | None:
    """What was answered to a heartbeat; None if the script was unsure. Raises ``ValueError``. Local."""
    _, verdict, now, version, mail = reply.split(b" ")
    if verdict != b"renewed":
        return None
    if len(now) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    ttl, at = _milliseconds(timing.ttl) / 1000, int(now) / 1000
    return Answer("renewed", token, candidate_id, ttl, 0, "", at, decode(version), ttl, mail=mail == b"1")


def parse_message(text: bytes) -> dict[str, Any]:
    """What somebody has put into an inbox; empty if it is garbage. Local."""
    try:
        message = json.loads(text) if len(text) <= LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        message = None
    # Only the list of wake-ups says who is woken; an inbox that does is garbage.
    found = {name: value for name, value in message.items() if name != "wake"} if isinstance(message, dict) else {}
    duplicate = found.get("duplicate")
    # Our answer goes to it.
    return {} if isinstance(duplicate, str) and UNPRINTABLE.search(duplicate) else found


def decode(value: bytes) -> str:
    """Text from Redis, whatever is in it. Local."""
    return value.decode("utf-8", "replace")


def _campaign(
    timing: Timing,
    candidate_id: str,
    preconditions: Preconditions,
    not_after: int | bytes,
    described: bytes,
    process: str,
) -> Words:
    who, what = _who(timing, candidate_id, preconditions.highest_token, not_after), _what(timing, described, process)
    return (*who, *what, preconditions.expired_version, *preconditions.unrecorded_end, *preconditions.dead)


def _release(
    timing: Timing,
    candidate_id: str,
    token: int,
    reason: str,
    preconditions: Preconditions,
    not_after: int | bytes,
    *,
    leave: bool,
    hold: float,
    clocks: str,
) -> Words:
    who = _who(timing, candidate_id, max(preconditions.highest_token, token), not_after)
    return (
        *who,
        token,
        reason,
        int(leave),
        math.ceil(min(hold, LONGEST_DURATION) * 1000),
        reclaimed(preconditions.acknowledged_version),
        clocks,
    )


def reclaimed(version: str) -> str:
    """The version, if it is that of a state that was regained. Local."""
    return version if version.startswith("reclaimed:") else ""


def _who(timing: Timing, candidate_id: str, highest_token: int, not_after: int | bytes) -> Words:
    return candidate_id, highest_token, math.ceil(timing.quarantine * 1000), timing.replicas, not_after


def _what(timing: Timing, described: bytes, process: str) -> Words:
    return _milliseconds(timing.ttl), lifetime(timing), described, process


def _described(info: LeaderInfo, *times: str) -> bytes:
    """What is published of a leader, with holes for the ``times``."""
    fields = info.as_dict() | dict.fromkeys(times)
    if not info.fencing_token:
        del fields["fencing_token"]  # the script knows it, and adds it
    text = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
    for name in map(str.encode, times):
        text = text.replace(b'"%s": null' % name, b'"%s": "%s"' % (name, TIME))
    return text


def _described_now(info: LeaderInfo) -> bytes:
    return _described(replace(info, last_heartbeat=utc_now(), fencing_token=0))


def _milliseconds(seconds: float) -> int:
    return math.floor(seconds * 1000)
