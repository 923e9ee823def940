"""A fork in C, of which the interpreter hears nothing, as uWSGI makes them."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from types import FrameType

WAITS = {"readable", "wait", "_run"}
"""The functions in which the threads of this package, and Python's conditions, wait."""


def fork_in_c(*, quiet: bool = False) -> int:
    """Fork, and return what ``fork`` does in C; with ``quiet`` when every other thread waits.

    ``PyDLL`` keeps the interpreter's lock. No thread may ask for it meanwhile: the child would wait, for ever, until
    that thread has taken it, and the child has no other thread. A child that exits needs a ``quiet`` fork for the same
    reason: the exit takes the locks of the log, and a thread that held one is not there to release it.
    """
    interval = sys.getswitchinterval()
    while True:
        sys.setswitchinterval(10)
        # Who has waited for the lock for longer than before asks for it only if nobody else has had it meanwhile.
        other = threading.Thread(target=int)
        other.start()
        other.join()
        if not quiet or _others_wait(sys._current_frames()):
            pid: int = ctypes.PyDLL(None).fork()
            sys.setswitchinterval(interval)
            return pid
        sys.setswitchinterval(interval)
        time.sleep(0.001)


def _others_wait(frames: dict[int, FrameType]) -> bool:
    return all(f.f_code.co_name in WAITS for thread, f in frames.items() if thread != threading.get_ident())
