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
from .records import UNPRINTABLE, Answer, Claim, LeaderInfo, utc_now

ECHO, TIME = b"\0" * 12, b"\1" * 32
"""The holes: the number of the request, and a time of day."""
LATEST = b"\2" * 13
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
    holes: tuple[bytes, ...]

    def filled(self, *values: bytes) -> bytes:
        """The request, with ``values`` in the holes. Local."""
        parts = [self.pieces[0]]
        for value, piece in zip(values, self.pieces[1:], strict=True):
            parts += value, piece
        return b"".join(parts)

    def words_filled(self, *values: bytes) -> list[bytes]:
        """The words behind the name of the script, with ``values`` in their holes. Local."""
        words, waiting = [], list(zip(self.holes, values, strict=True))
        for word in self.words:
            while waiting and waiting[0][0] in word:
                word = word.replace(*waiting.pop(0), 1)
            words.append(word)
        return words


def _packed(pack: Pack, holes: tuple[bytes, ...], command: Words, words: Words = ()) -> Packed:
    encoded = tuple(word if isinstance(word, bytes) else str(word).encode() for word in words)
    rest, pieces = pack(*command, *encoded), []
    for hole in holes:
        piece, _, rest = rest.partition(hole)
        pieces.append(piece)
    return Packed((*pieces, rest), encoded, holes)


def packed_campaign(
    pack: Pack, sha: str, keys: Keys, timing: Timing, me: str, claim: Claim, info: LeaderInfo, process: str
) -> Packed:
    """The campaigns that say the same. Holes: number, latest, now, and now."""
    described = _described(info, "started_at", "last_heartbeat")
    words = _campaign(timing, me, claim, LATEST, described, process)
    return _packed(pack, (ECHO, LATEST, TIME, TIME), ("EVALSHA", sha), (len(keys), *keys, ECHO, *words))


def packed_release(
    pack: Pack, sha: str, keys: Keys, timing: Timing, me: str, token: int, reason: str, claim: Claim, **how: Any
) -> Packed:
    """The releases that say the same. Holes: number, latest."""
    words = _release(timing, me, token, reason, claim, LATEST, **how)
    return _packed(pack, (ECHO, LATEST), ("EVALSHA", sha), (len(keys), *keys, ECHO, *words))


def packed_look(pack: Pack, sha: str, keys: Keys, timing: Timing, me: str) -> Packed:
    """The looks of a candidate that follows. Hole: number."""
    return _packed(pack, (ECHO,), ("EVALSHA", sha), (4, *keys[:4], ECHO, me, lifetime(timing)))


def packed_heartbeat(pack: Pack, sha: str, keys: Keys, timing: Timing, me: str, token: int, info: LeaderInfo) -> Packed:
    """The heartbeats of the term ``token``. Holes: number, time."""
    described = _described(replace(info, fencing_token=token), "last_heartbeat")
    words = (4, *keys[:3], inbox(keys, me), ECHO, me, token, _milliseconds(timing.ttl), described)
    return _packed(pack, (ECHO, TIME), ("EVALSHA", sha), words)


def packed_wait(pack: Pack, keys: list[str]) -> Packed:
    """The wait for an element in one of the lists. Hole: seconds."""
    return _packed(pack, (SECONDS,), ("BLPOP", *keys, SECONDS))


def campaign_arguments(timing: Timing, me: str, claim: Claim, info: LeaderInfo, process: str = "") -> Words:
    """What the script takes behind the number. Local."""
    return _campaign(timing, me, claim, _milliseconds(claim.latest), _described_now(info), process)


def reclaim_arguments(
    timing: Timing, me: str, token: int, info: LeaderInfo, claim: Claim, process: str = "", *, confirm: bool
) -> Words:
    """What the script takes behind the number; of ``claim`` the version that was answered, and latest. Local."""
    who, what = _who(timing, me, token, _milliseconds(claim.latest)), _what(timing, _described_now(info), process)
    return (*who, *what, int(confirm), claim.version)


def release_arguments(
    timing: Timing, me: str, token: int, reason: str, claim: Claim, *, leave: bool, hold: float, clocks: str = ""
) -> Words:
    """What the script takes behind the number. Local."""
    how: dict[str, Any] = {"leave": leave, "hold": hold, "clocks": clocks}
    return _release(timing, me, token, reason, claim, _milliseconds(claim.latest), **how)


def parse(reply: bytes) -> Answer:
    """What a script answered to a campaign, a look or a renewal. Raises ``ValueError``. Local."""
    _, verdict, token, left, candidates, at, version, span, twin, process, holder = decode(reply).split("\n", 10)
    if max(map(len, (token, left, candidates, at, span))) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    seconds, server, lasts = int(left) / 1000, int(at) / 1000, int(span) / 1000
    return Answer(verdict, int(token), holder, seconds, int(candidates), twin, server, version, lasts, process)


def parse_renewed(reply: bytes, me: str, token: int, timing: Timing) -> Answer | None:
    """What was answered to a heartbeat; None if the script was unsure. Raises ``ValueError``. Local."""
    _, verdict, now, version, mail = reply.split(b" ")
    if verdict != b"renewed":
        return None
    if len(now) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    ttl, at = _milliseconds(timing.ttl) / 1000, int(now) / 1000
    return Answer("renewed", token, me, ttl, 0, "", at, decode(version), ttl, mail=mail == b"1")


def parse_message(text: bytes) -> dict[str, Any]:
    """What somebody has put into an inbox; empty if it is garbage. Local."""
    try:
        message = json.loads(text) if len(text) <= LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        message = None
    # Only the list of wake-ups says who is woken; an inbox that does is garbage.
    found = {name: value for name, value in message.items() if name != "wake"} if isinstance(message, dict) else {}
    twin = found.get("twin")
    # Our answer goes to it.
    return {} if isinstance(twin, str) and UNPRINTABLE.search(twin) else found


def decode(value: bytes) -> str:
    """Text from Redis, whatever is in it. Local."""
    return value.decode("utf-8", "replace")


def _campaign(timing: Timing, me: str, claim: Claim, latest: int | bytes, described: bytes, process: str) -> Words:
    who, what = _who(timing, me, claim.floor, latest), _what(timing, described, process)
    return (*who, *what, claim.version, *claim.lost, *claim.dead)


def _release(
    timing: Timing,
    me: str,
    token: int,
    reason: str,
    claim: Claim,
    latest: int | bytes,
    *,
    leave: bool,
    hold: float,
    clocks: str,
) -> Words:
    who = _who(timing, me, max(claim.floor, token), latest)
    return (
        *who,
        token,
        reason,
        int(leave),
        math.ceil(min(hold, LONGEST_DURATION) * 1000),
        regained(claim.version),
        clocks,
    )


def regained(version: str) -> str:
    """The version, if it is that of a state that was regained. Local."""
    return version if version.startswith("regained:") else ""


def _who(timing: Timing, me: str, floor: int, latest: int | bytes) -> Words:
    return me, floor, math.ceil(timing.quarantine * 1000), timing.replicas, latest


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
