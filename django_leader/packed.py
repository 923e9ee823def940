"""Requests that are sent all day long, packed once: a heartbeat, and a follower's look.

NOT guaranteed here: anything of the election. A packed request has holes, for what differs each time. What is put into
a hole has the length of the hole, since Redis is told the length of each word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from .config import Keys, Timing, inbox, lifetime
from .records import LeaderInfo

ECHO, TIME = b"\0" * 12, b"\1" * 32
"""The holes: the number of the request, and the time of day."""
SECONDS = b"\2" * 12
"""The hole for how long to wait."""

Pack = Callable[..., bytes]


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
        words = []
        for word in self.words:
            for hole, value in zip(self.holes, values, strict=True):
                word = word.replace(hole, value)
            words.append(word)
        return words


def _packed(pack: Pack, holes: tuple[bytes, ...], command: tuple[Any, ...], words: tuple[bytes, ...] = ()) -> Packed:
    rest, pieces = pack(*command, *words), []
    for hole in holes:
        piece, rest = rest.split(hole)
        pieces.append(piece)
    return Packed((*pieces, rest), words, holes)


def heartbeat(pack: Pack, sha: str, keys: Keys, me: str, token: int, timing: Timing, info: LeaderInfo) -> Packed:
    """The heartbeats of the term ``token``. Holes: number, time."""
    text = replace(info, last_heartbeat=None, fencing_token=token).to_json().encode("utf-8", "replace")
    text = text.replace(b'"last_heartbeat": null', b'"last_heartbeat": "%s"' % TIME)
    names = (*keys[:3], inbox(keys, me))
    words = (b"4", *map(str.encode, names), ECHO, me.encode(), b"%d" % token, b"%d" % (timing.ttl * 1000), text)
    return _packed(pack, (ECHO, TIME), ("EVALSHA", sha), words)


def look(pack: Pack, sha: str, keys: Keys, me: str, timing: Timing) -> Packed:
    """The looks of a candidate that follows. Hole: number."""
    words = (b"4", *map(str.encode, keys[:4]), ECHO, me.encode(), b"%d" % lifetime(timing))
    return _packed(pack, (ECHO,), ("EVALSHA", sha), words)


def wait(pack: Pack, keys: list[str]) -> Packed:
    """The wait for an element in one of the lists. Hole: seconds."""
    return _packed(pack, (SECONDS,), ("BLPOP", *keys, SECONDS))
