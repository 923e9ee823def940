"""How the election speaks to its scripts: the words of a request, and what a reply means.

NOT guaranteed here: any property of the election. The scripts document what they do with the words.

Requests that are sent often (a heartbeat, a poll, a wait) and urgent requests (a campaign) are packed once.
Placeholders stand for the parts that differ each time. A value must have the length of its placeholder, because a
request tells Redis the length of each word.
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
"""The placeholders for the request id and for a wall time."""
NOT_AFTER = b"\2" * 13
"""The placeholder for the server's time after which the request is too old, in milliseconds."""
SECONDS = b"\3" * 12
"""The placeholder for the duration of a wait."""

LONGEST_MESSAGE = 4096
"""Bytes of a message in an inbox, at most. Our messages have an instance id, of at most 255 characters."""
LONGEST_NUMBER = 24
"""Characters of a number, at most. A script replies with 17, and Python refuses to read some thousands."""

Pack = Callable[..., bytes]
Words = tuple[Any, ...]


class Packed(NamedTuple):
    """A request with placeholders. Its words are kept for a server that does not know the script."""

    pieces: tuple[bytes, ...]
    words: tuple[bytes, ...]
    placeholders: tuple[bytes, ...]

    def filled(self, *values: bytes) -> bytes:
        """Return the request, with ``values`` in the placeholders. Local."""
        parts = [self.pieces[0]]
        for value, piece in zip(values, self.pieces[1:], strict=True):
            parts += value, piece
        return b"".join(parts)

    def words_filled(self, *values: bytes) -> list[bytes]:
        """Return the words after the name of the script, with ``values`` in their placeholders. Local."""
        words, waiting = [], list(zip(self.placeholders, values, strict=True))
        for word in self.words:
            while waiting and waiting[0][0] in word:
                word = word.replace(*waiting.pop(0), 1)
            words.append(word)
        return words


def _packed(pack: Pack, placeholders: tuple[bytes, ...], command: Words, words: Words = ()) -> Packed:
    encoded = tuple(word if isinstance(word, bytes) else str(word).encode() for word in words)
    rest, pieces = pack(*command, *encoded), []
    for placeholder in placeholders:
        piece, _, rest = rest.partition(placeholder)
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
    """Pack the campaigns that have this content. Placeholders: request id, not after, now, and now."""
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
    """Pack the releases that have this content. Placeholders: request id, not after."""
    words = _release(timing, candidate_id, token, reason, preconditions, NOT_AFTER, **how)
    return _packed(pack, (REQUEST_ID, NOT_AFTER), ("EVALSHA", sha), (len(keys), *keys, REQUEST_ID, *words))


def packed_poll(pack: Pack, sha: str, keys: Keys, timing: Timing, candidate_id: str) -> Packed:
    """Pack the polls of a follower. Placeholder: request id."""
    return _packed(pack, (REQUEST_ID,), ("EVALSHA", sha), (4, *keys[:4], REQUEST_ID, candidate_id, lifetime(timing)))


def packed_heartbeat(
    pack: Pack, sha: str, keys: Keys, timing: Timing, candidate_id: str, token: int, info: LeaderInfo
) -> Packed:
    """Pack the heartbeats of the term ``token``. Placeholders: request id, time."""
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
    """Pack the wait for an element in one of the lists. Placeholder: seconds."""
    return _packed(pack, (SECONDS,), ("BLPOP", *keys, SECONDS))


def campaign_arguments(
    timing: Timing, candidate_id: str, preconditions: Preconditions, info: LeaderInfo, process: str = ""
) -> Words:
    """Return the arguments of the script after the request id. Local."""
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
    """Return the arguments of the script after the request id. Local.

    Of ``preconditions`` only the acknowledged version and ``not_after`` are used.
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
    """Return the arguments of the script after the request id. Local."""
    how: dict[str, Any] = {"leave": leave, "hold": hold, "clocks": clocks}
    return _release(timing, candidate_id, token, reason, preconditions, _milliseconds(preconditions.not_after), **how)


def parse(reply: bytes) -> Answer:
    """Parse a script's reply to a campaign, a poll or a renewal. Raise ``ValueError``. Local."""
    _, verdict, token, left, candidates, at, version, duration, duplicate, process, holder = decode(reply).split(
        "\n", 10
    )
    if max(map(len, (token, left, candidates, at, duration))) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    seconds, server, lasts = int(left) / 1000, int(at) / 1000, int(duration) / 1000
    return Answer(verdict, int(token), holder, seconds, int(candidates), duplicate, server, version, lasts, process)


def parse_renewed(reply: bytes, candidate_id: str, token: int, timing: Timing) -> Answer | None:
    """Parse the reply to a heartbeat; return None if the script was unsure. Raise ``ValueError``. Local."""
    _, verdict, now, version, mail = reply.split(b" ")
    if verdict != b"renewed":
        return None
    if len(now) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    ttl, at = _milliseconds(timing.ttl) / 1000, int(now) / 1000
    return Answer("renewed", token, candidate_id, ttl, 0, "", at, decode(version), ttl, mail=mail == b"1")


def parse_message(text: bytes) -> dict[str, Any]:
    """Parse a message from an inbox; return an empty dict if it is garbage. Local."""
    try:
        message = json.loads(text) if len(text) <= LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        message = None
    # Only the wake list can wake a candidate. A "wake" in an inbox message is garbage.
    found = {name: value for name, value in message.items() if name != "wake"} if isinstance(message, dict) else {}
    duplicate = found.get("duplicate")
    # Our answer is sent to this id.
    return {} if isinstance(duplicate, str) and UNPRINTABLE.search(duplicate) else found


def decode(value: bytes) -> str:
    """Decode a text from Redis, whatever its bytes are. Local."""
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
    """Return ``version`` if it is that of a reclaimed state, or ''. Local."""
    return version if version.startswith("reclaimed:") else ""


def _who(timing: Timing, candidate_id: str, highest_token: int, not_after: int | bytes) -> Words:
    return candidate_id, highest_token, math.ceil(timing.quarantine * 1000), timing.replicas, not_after


def _what(timing: Timing, described: bytes, process: str) -> Words:
    return _milliseconds(timing.ttl), lifetime(timing), described, process


def _described(info: LeaderInfo, *times: str) -> bytes:
    """Return what is published of a leader, with placeholders for the ``times``."""
    fields = info.as_dict() | dict.fromkeys(times)
    if not info.fencing_token:
        del fields["fencing_token"]  # the script knows the token, and adds it
    text = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
    for name in map(str.encode, times):
        text = text.replace(b'"%s": null' % name, b'"%s": "%s"' % (name, TIME))
    return text


def _described_now(info: LeaderInfo) -> bytes:
    return _described(replace(info, last_heartbeat=utc_now(), fencing_token=0))


def _milliseconds(seconds: float) -> int:
    return math.floor(seconds * 1000)
