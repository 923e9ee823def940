"""A request to Redis, packed once and filled in each time it is sent. Pure.

NOT guaranteed here: that a request fits its server. ``requests`` makes the templates, ``redis.runner`` sends them.

A request is a template and values for its placeholders. A template is packed once, as Redis reads it, and is used again
for as long as its content is the same. So a heartbeat, a poll and an urgent campaign only fill in their placeholders:
the request id, the time, and the like. A value must have the length of its placeholder, because a packed request tells
Redis the length of each word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from django_leader.exceptions import RedisUnavailable

IN_ITS_PLACE = "check whether a proxy or another program answers in place of Redis"
REQUEST_ID = b"\0" * 12
"""The placeholder for the number of a request."""


class GarbledReply(RedisUnavailable):
    """A reply that cannot be that to its request. So the server is reachable, or something is in its place."""


@dataclass(frozen=True, eq=False)
class Template:
    """A request of which only the values of its placeholders differ each time."""

    name: str
    """The name of the script; of a plain command, that command."""
    words: tuple[bytes, ...]
    """What follows the program of the script (or its digest): the number of keys, the keys, and the arguments."""
    placeholders: tuple[bytes, ...]
    """In the order in which they occur in the words. Of a script, the first is that of the request id."""
    pieces: tuple[bytes, ...]
    """The packed words, split at the placeholders."""
    parse: Callable[[Any], Any]
    """Return what a reply means. Raise an exception of any kind for a reply that cannot be one to this request."""
    is_script: bool = True
    pause: float = 0.0
    """Seconds to sleep before the reply is read."""
    once: bool = False
    """Whether the request must not be sent again on another connection, because that may lead to another server."""
    single: bool = False
    """Whether the request must not be sent a second time while the first may still be executed. It may open a
    connection, unlike one that is sent ``once``."""


class Request(NamedTuple):
    """A template and the values of its placeholders. Those of a script do not include its request id."""

    template: Template
    values: tuple[bytes, ...] = ()

    def packed(self, *program: str, request_id: bytes = b"") -> bytes:
        """Return the request as Redis reads it. ``program``: ``EVALSHA`` and a digest, ``EVAL`` and a source. Local."""
        template = self.template
        values = (request_id, *self.values) if template.is_script else self.values
        parts = [b"*%d\r\n" % (len(program) + len(template.words)), _pack(map(str.encode, program)), template.pieces[0]]
        for value, piece in zip(values, template.pieces[1:], strict=True):
            parts += value, piece
        return b"".join(parts)

    def words(self, request_id: bytes) -> list[bytes]:
        """Return the words of a script with the values in them, for a server that is none of Redis. Local."""
        waiting = list(zip(self.template.placeholders, (request_id, *self.values), strict=True))
        words = []
        for word in self.template.words:
            while waiting and waiting[0][0] in word:
                word = word.replace(*waiting.pop(0), 1)
            words.append(word)
        return words

    def read(self, reply: Any) -> Any:
        """Return what ``reply`` means. Raise ``GarbledReply`` if it cannot be one to this request. Local."""
        try:
            return self.template.parse(reply)
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise garbled(self.template.name) from error


def garbled(name: str) -> GarbledReply:
    """Return the error for a reply that cannot be that to the request ``name``. Local."""
    return GarbledReply(f"the reply to {name} does not belong to its request; {IN_ITS_PLACE}")


def script(
    name: str,
    keys: tuple[str, ...],
    arguments: tuple[Any, ...],
    parse: Callable[[Any], Any],
    placeholders: tuple[bytes, ...] = (),
    *,
    once: bool = False,
    single: bool = False,
    pause: float = 0.0,
) -> Template:
    """Return the template of a request that runs the script ``name``. Local."""
    words = _encoded((len(keys), *keys, REQUEST_ID, *arguments))
    placeholders = (REQUEST_ID, *placeholders)
    return Template(
        name, words, placeholders, _split(words, placeholders), parse, pause=pause, once=once, single=single
    )


def command(words: tuple[Any, ...], parse: Callable[[Any], Any], placeholders: tuple[bytes, ...] = ()) -> Template:
    """Return the template of a plain command. Local."""
    encoded = _encoded(words)
    return Template(words[0], encoded, placeholders, _split(encoded, placeholders), parse, is_script=False)


def _encoded(words: tuple[Any, ...]) -> tuple[bytes, ...]:
    return tuple(word if isinstance(word, bytes) else str(word).encode() for word in words)


def _pack(words: Iterable[bytes]) -> bytes:
    return b"".join([b"$%d\r\n%s\r\n" % (len(word), word) for word in words])


def _split(words: tuple[bytes, ...], placeholders: tuple[bytes, ...]) -> tuple[bytes, ...]:
    rest, pieces = _pack(words), []
    for placeholder in placeholders:
        piece, _, rest = rest.partition(placeholder)
        pieces.append(piece)
    return *pieces, rest
