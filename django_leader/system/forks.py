"""What one process must not do for another: the child of a fork in C goes on where its parent was.

``os.register_at_fork`` hears nothing of a fork in C, as uWSGI makes its workers. In the child go on the thread that
forked and, under gevent or eventlet, all greenlets. They hold the parent's identity and share its sockets. So each
loop, each wait and each request asks whose process this is, and raises ``Forked`` in a child.

NOT guaranteed here:

- That the parent notices nothing of a fork while a request is under way, or a connect. The child may take the reply.
  It does nothing with it, because it asks again before it uses a reply. The parent has then lost a reply, like any
  other: when its time is over, it asks again on a new connection. A wait at Redis, in which a follower spends its time,
  is not such a request: there the child asks before it reads.
- That what is logged comes from the parent if the fork happened while a handler of the log waited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


class Forked(BaseException):
    """Ends, in a child, what the parent had begun. No ``Exception``, so that nothing on the way retries or logs it."""


def unsupported() -> str:
    """Why no election can take part on this platform; empty if it can. Local.

    It lacks what the guarantees stand on: a clock that nobody sets, and a word when the process is forked.
    """
    needed = {"clock_gettime": time, "register_at_fork": os, "pthread_sigmask": signal}
    missing = [f"{module.__name__}.{name}" for name, module in needed.items() if not hasattr(module, name)]
    if not missing:
        return ""
    return f"Python lacks {', '.join(missing)} on this platform ({sys.platform}); elections need a POSIX system"


def register(
    *,
    before: Callable[[], Any] | None = None,
    after_in_parent: Callable[[], Any] | None = None,
    after_in_child: Callable[[], Any] | None = None,
) -> None:
    """Call these when this process forks, as ``os.register_at_fork`` does; where there is none, never. Local."""
    hooks = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**{name: hook for name, hook in hooks.items() if hook})


def check(pid: int) -> None:
    """Raise ``Forked`` in any process but ``pid``. Local: a system call, below a microsecond."""
    if os.getpid() != pid:
        raise Forked


def in_fork_server() -> bool:
    """Whether this is the fork server of ``multiprocessing``, which imports the main program and only forks. Local."""
    if "multiprocessing.forkserver" not in sys.modules:
        return False
    functions = set()
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame:
        if frame.f_globals.get("__name__") == "multiprocessing.forkserver":
            functions.add(frame.f_code.co_name)
        frame = frame.f_back
    return "main" in functions and "_serve_one" not in functions  # which is on the stack of its children


def close_silently(sock: Any) -> None:
    """Close a descriptor of which another process has a copy, without a word to the other end."""
    with contextlib.suppress(OSError, AttributeError):
        os.close(sock.detach())
