"""The package's logger, which a handler of the application cannot make us fail by."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

logger = logging.getLogger("django_leader")


def log(level: int, message: str, *args: Any, exc_info: Any = None) -> None:
    """Logs; an exception from a handler or a filter is dropped. May block as long as a handler does: hold no lock."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args, exc_info=exc_info)
