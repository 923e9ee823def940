"""The package's logger, which a handler of the application cannot make us fail by."""

from __future__ import annotations

import logging
from typing import Any

from .records import printable
from .threads import survives

logger = logging.getLogger("django_leader")
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
