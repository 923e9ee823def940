"""The repetition of a signal that came just before the main thread began to wait, so that the handler runs.

Python runs a handler between two steps of the main thread. A signal may arrive after the last check for pending
signals, and before the system call in which the thread waits. Such a signal does not end that call, so the handler runs
only when the call returns. That may take for ever. It is not rare on a busy machine, where a thread may lose the
processor right there.

A thread of ours reads Python's wake-up descriptor, into which the C handler writes each signal. Our handler empties it.
If the signal is still there some milliseconds later, the thread sends it again to the main thread, which ends the call.

NOT guaranteed here: anything

- where other code has the descriptor, or takes it later, such as an event loop or Twisted. Its owner uses it for the
  same purpose, so the owner keeps it. An event loop gives it up when it removes its last handler; the next election
  that starts in the main thread takes it again. trio warns of it if it comes second ("collided with another library"):
  run trio first, or set ``HANDLE_SIGTERM`` to False.
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

from . import clock
from .threads import greenlets

PAUSE = 0.02
"""Seconds that the main thread has to run the handler before the signal is sent again."""
LONGEST_PAUSE = 0.5
"""Seconds between two signals, at most, if the main thread does not run the handler."""
HANGS = 1.0
"""Seconds after which the main thread is considered to hang in code that no signal ends."""
BELATED = 0.1
"""Seconds after a run of the handler in which a signal that is found counts as handled. If the C handler runs in
another thread, our handler may have run before the C handler has written the signal."""


class Wakeup:
    """The wake-up descriptor of this process.

    ``wanted`` returns whether our handler is still installed. ``hangs`` is called again and again while the main thread
    hangs, so a second call must do no harm.
    """

    def __init__(self, number: int, wanted: Callable[[], bool], hangs: Callable[[], None]) -> None:
        self._number, self._wanted, self._hangs = number, wanted, hangs
        # Written in the main thread:
        self._pid = 0
        self._reader: socket.socket | None = None
        self._writer = -1
        self._handled_at = 0.0

    def start(self) -> None:
        """Take the descriptor if no other code has it. Local, in the main thread. Do nothing if it is ours already."""
        # A greenlet in place of the thread would keep its hub from ever ending.
        if not hasattr(socket, "SO_PASSCRED") or greenlets():
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
        # The child of a fork in C, which runs no hook, writes its signals into the same socket.
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        _thread.start_new_thread(self._run, (reader, os.getpid(), _thread.get_ident()))
        self._pid, self._reader, self._writer = (
            os.getpid(),
            reader,
            writer.detach(),
        )  # never closed, as long as a signal may come

    def handled(self) -> None:
        """Record, from within the handler, that it runs: earlier signals are not sent again. Take no lock."""
        self._handled_at = clock.now()
        if self._reader is not None:
            with suppress(OSError):
                while self._reader.recv(4096):
                    pass

    def forget(self) -> None:
        """In a forked child: close what is the parent's. Local."""
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
            # Another handler may be installed in place of ours for a while, and take the signal.
            seen, wanted = clock.now(), self._wanted()
            time.sleep(pause)
            unhandled = self._unhandled(reader, pid) and self._handled_at < seen - BELATED
            if not (unhandled and wanted and self._wanted()):
                since, pause = None, PAUSE
                continue
            since, pause = since or seen, min(2 * pause, LONGEST_PAUSE)
            # No other thread runs between this check and the signal, so the signal is not sent if the handler has run.
            if self._handled_at < seen - BELATED:
                signal.pthread_kill(main_thread, self._number)
            if seen > since + HANGS:
                self._hangs()

    def _unhandled(self, reader: socket.socket, pid: int) -> bool:
        """Read what is there. Return whether our signal is among it, and was sent to this process."""
        found = False
        with suppress(OSError):
            while True:
                data, messages, _, _ = reader.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
                if not data:
                    break
                senders = [struct.unpack("3i", body[:12])[0] for _, _, body in messages]
                found = found or (self._number in data and senders == [pid])
        return found
