"""The end of a wait from outside: by another thread, a signal handler, or a process that dies.

NOT guaranteed here: that there is anything to do. The waiting thread checks for itself each time that it wakes up.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket

from .forks import check


def readable(descriptors: list[int], seconds: float) -> list[int]:
    """Return those of ``descriptors`` that can be read, or have ended, within ``seconds`` seconds."""
    if not hasattr(select, "poll"):
        return select.select(descriptors, [], [], seconds)[0]
    poller = select.poll()  # unlike select it knows descriptors above 1023, and gevent has it
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(math.ceil(seconds * 1000))]


class Waker:
    """What wakes a thread that waits: from any thread, any number of times, also from a signal handler.

    A child of a fork shares the descriptors with its parent. There it neither wakes nor waits.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self.also: int | None = None
        """A descriptor that ends a wait like ``set()`` when it can be read."""

    def set(self) -> None:
        """End the wait that is under way, or the next one. Local, never blocks."""
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._writer.send(b"!")

    def wait(self, seconds: float, sock: socket.socket | None = None) -> tuple[bool, bool]:
        """Wait for ``set()`` or for something to read on ``sock``, for ``seconds`` seconds at most.

        Return which of them ended the wait: (set, readable). Raise ``Forked`` in another process than the one that made
        this object, and read nothing then.
        """
        check(self._pid)
        own, other = self._reader.fileno(), -1 if sock is None else sock.fileno()
        ready = readable([fd for fd in (own, other, self.also) if fd is not None and fd >= 0], max(0.0, seconds))
        check(self._pid)
        if own in ready:
            with contextlib.suppress(OSError):
                while self._reader.recv(4096):
                    pass
        return own in ready or self.also in ready, other in ready

    def close(self) -> None:
        """Close the descriptors. A later ``set()`` does nothing."""
        self._reader.close()
        self._writer.close()
