"""Has the main thread run the handler of a signal that came just before it began to wait.

Python runs a handler between two steps of the main thread. A signal that comes behind the last look at whether one is
pending, and before the system call in which the thread waits, does not end that call, so the handler runs when the call
returns. That may take for ever; on a busy machine, where a thread may lose the processor right there, it is not rare.

A thread of ours reads Python's wake-up descriptor, into which the C handler writes each signal. Our handler empties it.
If the signal is still there some milliseconds later, the thread sends it again to the main thread, which ends the call.

NOT guaranteed here: anything

- where somebody else has the descriptor, or takes it later, such as an event loop or Twisted. Its owner uses it to the
  same end, so it is left to it. An event loop gives it up when it removes its last handler; the next election that
  starts in the main thread takes it again. trio warns of it where it comes second ("collided with another library"):
  run it first, or give ``HANDLE_SIGTERM`` False.
- where threads are greenlets: the heartbeats of the election end the wait there.
- outside of Linux.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from types import BuiltinFunctionType

from . import clock

PAUSE = 0.02
"""Seconds that the main thread has to run the handler before the signal is sent again."""
LONGEST_PAUSE = 0.5
"""Seconds between two signals in the end, if it does not run it."""
HANGS = 1.0
"""Seconds after which the main thread is taken to hang in code that no signal ends."""
BELATED = 0.1
"""Seconds after a run of the handler in which a signal that is found counts as handled. Where the C handler runs in
another thread, ours may have run before it has written."""


class Wakeup:
    """Of this process. ``wanted`` tells whether our handler still stands; ``hangs`` is called once for each hang."""

    def __init__(self, number: int, wanted: Callable[[], bool], hangs: Callable[[], None]) -> None:
        self._number, self._wanted, self._hangs = number, wanted, hangs
        # Written in the main thread:
        self._pid = 0
        self._reader: socket.socket | None = None
        self._writer = -1
        self._handled_at = 0.0

    def start(self) -> None:
        """Take the descriptor if nobody has it. Local, in the main thread; again, it does nothing if it has it."""
        # A green thread would keep its hub from ever being done.
        if not hasattr(socket, "SO_PASSCRED") or not isinstance(_thread.start_new_thread, BuiltinFunctionType):
            return
        with suppress(OSError, RuntimeError, ValueError):  # no descriptor, no thread, a sub-interpreter
            if self._pid != os.getpid():
                self.forget()
                self._open()
            other = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            if other not in (-1, self._writer):
                signal.set_wakeup_fd(other, warn_on_full_buffer=False)

    def _open(self) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        # The child of a fork in C, which nobody hears of, writes its signals into the same socket.
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        _thread.start_new_thread(self._run, (reader, os.getpid(), _thread.get_ident()))
        self._pid, self._reader, self._writer = (
            os.getpid(),
            reader,
            writer.detach(),
        )  # never closed, as long as a signal may come

    def handled(self) -> None:
        """Say that the handler runs, from within it: signals that came before are not sent again. Takes no lock."""
        self._handled_at = clock.now()
        if self._reader is not None:
            with suppress(OSError):
                while self._reader.recv(4096):
                    pass

    def forget(self) -> None:
        """In a forked child: give back what is the parent's. Local."""
        if self._reader is None:
            return
        with suppress(OSError, ValueError):
            other = signal.set_wakeup_fd(-1)
            if other not in (-1, self._writer):
                signal.set_wakeup_fd(other, warn_on_full_buffer=False)
        self._reader.close()
        os.close(self._writer)
        self._pid, self._reader, self._writer = 0, None, -1

    def _run(self, reader: socket.socket, pid: int, main_thread: int) -> None:
        poll, since, pause = select.poll(), None, PAUSE
        poll.register(reader, select.POLLIN)
        while pid == os.getpid():
            with suppress(OSError):
                poll.poll()
            # Another handler may stand in the place of ours for a while, and take the signal.
            seen, wanted = clock.now(), self._wanted()
            time.sleep(pause)
            unhandled = self._unhandled(reader, pid) and self._handled_at < seen - BELATED
            if not (unhandled and wanted and self._wanted()):
                since, pause = None, PAUSE
                continue
            since, pause = since or seen, min(2 * pause, LONGEST_PAUSE)
            # No other thread runs between this look and the signal, so that it is not sent to a handler that has run.
            if self._handled_at < seen - BELATED:
                signal.pthread_kill(main_thread, self._number)
            if seen > since + HANGS:
                self._hangs()

    def _unhandled(self, reader: socket.socket, pid: int) -> bool:
        """Take out what is there. Return whether it has our signal, and this process got it."""
        found = False
        with suppress(OSError):
            while True:
                data, messages, _, _ = reader.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
                if not data:
                    break
                senders = [struct.unpack("3i", body[:12])[0] for _, _, body in messages]
                found = found or (self._number in data and senders == [pid])
        return found
