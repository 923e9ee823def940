"""How much is read of one reply, whatever program has written its content.

NOT guaranteed here: that a reply within the limit makes sense.

The scripts cut what they reply. But an element of a list goes straight from the program that pushes it to the candidate
that waits for it, and may have half a gigabyte. No command tells its length before it comes. So the limit is here,
where redis-py's parsers, those in Python and those of hiredis, take their bytes from.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import InvalidResponse

LARGEST_REPLY = 2 * 2**20
"""Bytes. Twice the length of the longest reply of a script."""


class TooLong(InvalidResponse):
    """The reply is longer than any that we ask for. The connection cannot be used any more."""

    def __init__(self) -> None:
        super().__init__(f"a reply is longer than {LARGEST_REPLY} bytes, so it does not belong to an election")


class _Socket:
    """A socket as a parser uses it, which counts every byte that it returns."""

    def __init__(self, sock: Any) -> None:
        self._sock, self.left = sock, LARGEST_REPLY

    def recv(self, *args: Any) -> bytes:
        data: bytes = self._sock.recv(*args)
        self._count(len(data))
        return data

    def recv_into(self, *args: Any) -> int:
        length: int = self._sock.recv_into(*args)
        self._count(length)
        return length

    def _count(self, length: int) -> None:
        self.left -= length
        if self.left < 0:
            raise TooLong

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Connection:
    """A connection as its parser sees it, with such a socket."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._sock = connection, _Socket(connection._sock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def limited(parser: type[Any]) -> type[Any]:
    """Return a class of parsers like ``parser`` that raise ``TooLong`` for a reply that is too long. Local."""

    class Limited(parser):  # type: ignore[misc]
        def on_connect(self, connection: Any, **kwargs: Any) -> None:
            seen = _Connection(connection)
            self._counted = seen._sock
            super().on_connect(seen, **kwargs)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            self._counted.left = LARGEST_REPLY
            return super().read_response(*args, **kwargs)

    return Limited
