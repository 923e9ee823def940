"""The package's logger. If a log handler of the application fails, this package goes on."""

from __future__ import annotations

import logging
import traceback
from pathlib import PurePath
from typing import Any

from django_leader.protocol.records import printable

from .threads import survives

logger = logging.getLogger("django_leader")
DEEPEST = 20
"""Calls of an exception's traceback that are shown, the last ones."""
LONGEST = 2000
"""Characters of a text in a line. A text of a library may contain whatever a server or another process has written."""


class Logged(Exception):
    """A failure that was logged where it happened, so that no caller logs it again."""


def log(level: int, message: str, *args: Any, exc_info: Any = None, extra: dict[str, Any] | None = None) -> None:
    """Log, and drop what a handler or a filter raises. May block as long as a handler does: hold no lock.

    Texts and exceptions among ``args`` are written as they may be shown (``printable``). The items of ``extra`` become
    attributes of the record. In a thread of the application only an ``Exception`` is dropped: a Ctrl-C that comes
    meanwhile is raised.
    """
    try:
        shown = (printable(str(arg), LONGEST) if isinstance(arg, str | BaseException) else arg for arg in args)
        logger.log(level, message, *shown, exc_info=exc_info, extra=extra)
    except BaseException as error:
        if not survives(error):
            raise


def way_to(error: BaseException) -> str:
    """Return the type of an exception and the calls that led to it. Local.

    For an exception of any library: its text and the values of its variables may hold a secret, so none is shown.
    """
    frames = traceback.extract_tb(error.__traceback__)[-DEEPEST:]
    calls = [f"{frame.name} ({PurePath(frame.filename).name}:{frame.lineno})" for frame in frames]
    return f"{type(error).__name__} in {' > '.join(calls)}"
