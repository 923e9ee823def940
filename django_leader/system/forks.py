"""What a process must not do for its parent: the child of a fork in C goes on where its parent was.

The hooks of ``os.register_at_fork`` do not run at a fork in C, by which uWSGI makes its workers. In the child, the
thread that forked goes on and, under gevent or eventlet, all greenlets go on. They hold the parent's identity and share
its sockets. So each loop, each wait and each request checks the process id, and raises ``Forked`` in a child.

NOT guaranteed here:

- That a fork during a request, or during a connect, has no effect on the parent. The child may take the reply. It does
  nothing with it, because it checks the process id again before it uses a reply. The parent has then lost a reply, like
  any other: after the timeout, it asks again on a new connection. A wait at Redis, in which a follower spends its time,
  is not such a request: there the child checks before it reads.
- That what is logged comes from the parent if the fork happened while a log handler waited.
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
    """The end, in a child, of what the parent had begun. No ``Exception``, so that no caller retries or logs it."""


def unsupported() -> str:
    """Return why no process can be a candidate on this platform; empty if it can. Local.

    Such a platform lacks what the guarantees rest on: a clock that cannot be set, and a hook that runs at a fork.
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
    """Call these when this process forks, as ``os.register_at_fork`` does. Without that function, never. Local."""
    hooks = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**{name: hook for name, hook in hooks.items() if hook})


def check(pid: int) -> None:
    """Raise ``Forked`` in any process but ``pid``. Local: a system call, below a microsecond."""
    if os.getpid() != pid:
        raise Forked


def unless_forked(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls ``call`` in this process, and does nothing in a child of it. Local."""
    pid = os.getpid()
    return lambda: call() if pid == os.getpid() else None


def in_fork_server() -> bool:
    """Return whether this is the fork server of ``multiprocessing``. Local.

    The fork server imports the main program and only forks.
    """
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
    """Close a descriptor of which another process has a copy, without sending anything to the other end."""
    with contextlib.suppress(OSError, AttributeError):
        os.close(sock.detach())
