"""What one process must not do for another: the child of a fork in C goes on where its parent was.

``os.register_at_fork`` hears nothing of a fork in C, as uWSGI makes its workers. In the child go on the thread that
forked and, under gevent or eventlet, all greenlets. They hold the parent's identity and share its sockets. So each
loop, each wait and each request asks whose process this is, and raises ``Forked`` in a child.

NOT guaranteed here:

- That a child takes no part in a connect or in a TLS handshake that was under way when it was forked. redis-py makes
  both in one call. The child closes that socket without a request on it, but the parent's attempt may fail, and is
  repeated like any attempt that fails.
- That a log line comes from the parent if the fork happened while its handler waited.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from redis.connection import Connection

from . import clock

T = TypeVar("T")


class Forked(BaseException):
    """Ends, in a child, what the parent had begun. No ``Exception``, so that nothing on the way retries or logs it."""


def check(pid: int) -> None:
    """Raise ``Forked`` in any process but ``pid``. Local: a system call, below a microsecond."""
    if os.getpid() != pid:
        raise Forked


def poll(reading: list[int], seconds: float, writing: list[int] | None = None) -> list[int]:
    """Return the descriptors that are ready, or have ended, within ``seconds`` seconds."""
    if not hasattr(select, "poll"):
        ready = select.select(reading, writing or [], [], seconds)
        return ready[0] + ready[1]
    waiting = select.poll()  # unlike select it knows descriptors above 1023, and gevent has it
    for descriptor in reading:
        waiting.register(descriptor, select.POLLIN)
    for descriptor in writing or []:
        waiting.register(descriptor, select.POLLOUT)
    return [descriptor for descriptor, _ in waiting.poll(math.ceil(seconds * 1000))]


class OwnSocket:
    """A connected socket on which only the process ``pid`` sends and reads. ``Forked`` is raised in any other one.

    A socket that waits inside of ``recv`` or ``sendall`` would read or send when it goes on in a child. This one waits
    before each try, and asks in between whose process it is.
    """

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock, self._pid, self._timeout = sock, pid, sock.gettimeout()
        sock.settimeout(0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, seconds: float | None) -> None:
        """Set the seconds after which a read or a send raises ``TimeoutError``; None: never."""
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        """Return these seconds."""
        return self._timeout

    def recv(self, *args: Any) -> bytes:
        """Read as ``socket.recv`` does."""
        return self._try(self._sock.recv, *args)

    def recv_into(self, *args: Any) -> int:
        """Read as ``socket.recv_into`` does."""
        return self._try(self._sock.recv_into, *args)

    def sendall(self, data: bytes) -> None:
        """Send as ``socket.sendall`` does."""
        left = memoryview(data)
        while left:
            left = left[self._try(self._sock.send, left, writes=True) :]

    def _try(self, call: Callable[..., T], *args: Any, writes: bool = False) -> T:
        until: float | None = None
        while True:
            check(self._pid)
            try:
                if (done := call(*args)) or not writes:
                    return done
                writing = True  # gevent's TLS sockets say so that they cannot send now
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if self._timeout == 0.0:
                    raise
                writing = isinstance(error, ssl.SSLWantWriteError) or (writes and isinstance(error, BlockingIOError))
            now = clock.now()
            until = until or now + (math.inf if self._timeout is None else self._timeout)
            if now >= until:
                raise TimeoutError("timed out")
            descriptor = [self._sock.fileno()]
            poll([] if writing else descriptor, min(until - now, 3600.0), descriptor if writing else None)


@functools.cache
def own(kind: type[Connection]) -> type[Connection]:
    """Return the class of those connections of redis-py of this ``kind`` that only the process uses that makes them."""

    class Own(kind):  # type: ignore[misc, valid-type]
        def _connect(self) -> Any:
            check(self.pid)
            sock = super()._connect()
            if os.getpid() != self.pid:
                close_silently(sock)
                raise Forked
            return OwnSocket(sock, self.pid) if isinstance(sock, socket.socket) else sock

    return Own


def close_silently(sock: Any) -> None:
    """Close a descriptor of which another process has a copy, without a word to whoever is at the other end."""
    with contextlib.suppress(OSError, AttributeError):
        os.close(sock.detach())
