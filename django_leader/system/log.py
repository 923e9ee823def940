"""The package's logger, which a handler of the application cannot make us fail by."""

from __future__ import annotations

import logging
import traceback
from pathlib import PurePath
from typing import Any

from django_leader.protocol.records import printable

from .threads import survives

logger = logging.getLogger("django_leader")
DEEPEST = 20
"""Calls that are told of an exception, the last ones."""
LONGEST = 2000
"""Characters of a text in a line. Those of a library may have whatever a server or another process has written."""


def log(level: int, message: str, *args: Any, exc_info: Any = None, extra: dict[str, Any] | None = None) -> None:
    """Log; drop what a handler or a filter raises. May block as long as a handler does: hold no lock.

    Texts and exceptions among ``args`` are written as they may be shown (``printable``). ``extra`` become attributes of
    the record. In a thread of the application only an ``Exception`` is dropped: a Ctrl-C that comes meanwhile is
    raised.
    """
    try:
        shown = (printable(str(arg), LONGEST) if isinstance(arg, str | BaseException) else arg for arg in args)
        logger.log(level, message, *shown, exc_info=exc_info, extra=extra)
    except BaseException as error:
        if not survives(error):
            raise


def way_to(error: BaseException) -> str:
    """Return the type of an exception and the calls that led to it. Local.

    For an exception of any library: its text and the values of its variables may hold a secret, so none is told.
    """
    frames = traceback.extract_tb(error.__traceback__)[-DEEPEST:]
    calls = [f"{frame.name} ({PurePath(frame.filename).name}:{frame.lineno})" for frame in frames]
    return f"{type(error).__name__} in {' > '.join(calls)}"
