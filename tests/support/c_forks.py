"""A fork in C, of which the interpreter hears nothing, as uWSGI makes them."""

from __future__ import annotations

import ctypes
import sys
import threading


def fork_in_c() -> int:
    """Fork, and return what ``fork`` does in C.

    ``PyDLL`` keeps the interpreter's lock. No thread may ask for it meanwhile: the child would wait, for ever, until
    that thread has taken it, and the child has no other thread.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    # Who has waited for the lock for longer than before asks for it only if nobody else has had it meanwhile.
    other = threading.Thread(target=int)
    other.start()
    other.join()
    pid: int = ctypes.PyDLL(None).fork()
    sys.setswitchinterval(interval)
    return pid
