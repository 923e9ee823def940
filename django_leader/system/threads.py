"""The threads of this package, and what they survive.

NOT guaranteed here: that a thread goes on when the interpreter ends, because all are daemon threads.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

from .forks import Forked

PAUSE = 0.2
"""Seconds between two attempts at a call that raises, so that a lasting fault does not make a thread spin."""


class OwnThread(threading.Thread):
    """A daemon thread of this package. No code of the application expects an exception that is raised in it."""

    def __init__(self, target: Callable[[], Any], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)


def greenlets() -> bool:
    """Return whether threads are greenlets here, because gevent or eventlet has replaced them. Local."""
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def survives(error: BaseException) -> bool:
    """Return whether the calling thread is to go on after ``error``. Local.

    A thread of ours goes on after everything, ``SystemExit`` included, except when its greenlet is killed, or in a
    child of a fork. In any other thread only an ``Exception`` is ours: ``KeyboardInterrupt``, a timeout of gevent and
    the like are the caller's.
    """
    if isinstance(error, Exception):
        return True
    greenlet: Any = sys.modules.get("greenlet")
    ends = (Forked,) if greenlet is None else (Forked, greenlet.GreenletExit)
    return isinstance(threading.current_thread(), OwnThread) and not isinstance(error, ends)
