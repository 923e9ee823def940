"""Output that does not change the exit status of a command: no character, reader or missing stream makes it fail.

Python ends a program whose output fails with the exit status 1 or 120. For ``leader_status`` 1 means that there is no
leader.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from django.core.management.base import OutputWrapper


def printable(text: str, stream: OutputWrapper) -> str:
    """Return ``text`` with escapes in the place of the characters that the encoding of ``stream`` lacks. Local."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def put(text: str, stream: OutputWrapper) -> None:
    """Write ``text`` and a line's end, unless the stream is closed or no process reads it.

    Raise ``OSError`` if it cannot be written for another reason, such as a full disk. Nothing is written then.
    """
    if getattr(stream, "_out", None) is None:  # the descriptor was closed when Python started
        return
    try:
        stream.write(printable(text, stream))
        stream.flush()
    except OSError as error:
        # At exit Python would write what is left in the buffer, fail again and end with 120.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def put_table(titles: Iterable[object], rows: Iterable[Sequence[str]], stream: OutputWrapper) -> None:
    """Write a table, with each column as wide as its longest cell. Raise ``OSError`` like ``put``."""
    table = [[printable(str(cell), stream) for cell in row] for row in ([*titles], *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        put("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), stream)
