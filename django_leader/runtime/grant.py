"""What ``is_leader()`` reads: the deadline of a term, in a memory page that is wiped in every forked child.

NOT guaranteed here: anything about a process or a machine that was cloned while it ran.

The check is ``clock_gettime(BOOT_CLOCK) < grant.cell[0]``: one read, one clock call, one compare. The cell is 0.0 once
the term is over, and in a child from its first instruction on. ``os.register_at_fork`` is not called by a fork in C
(uWSGI makes its workers so), and ``os.getpid()`` is a system call, which would more than double the cost; but Linux
can wipe a page in every child (``MADV_WIPEONFORK``).

Once the answer is false for a term, it stays false, and no lock is needed for that. The deadline may pass between two
steps of a reader while the election thread publishes a renewal that was accepted before. One atomic call decides which
of the two was first: each puts what follows the deadline into a dict by ``setdefault``, and the second finds what the
first has put there.

- The reader was first: ``ENDED`` follows. ``extend`` finds it, publishes nothing, and says so.
- The renewal was first: its deadline follows, whether the cell shows it yet or not. The reader takes it.

So the answer is false if the cell was 0.0, or if ``ENDED`` follows the last deadline, after which nothing can follow.
In the second case the reader sets the cell to 0.0 as well. An ``extend`` that was overtaken may still write a deadline
into it, but one that the clock has passed. So every later reader finds ``ENDED``, because a boot clock never goes back.
"""

from __future__ import annotations

import mmap
import os
import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .work import locked

_MADV_WIPEONFORK = 18
_NEXT = "next"


class Cell(Protocol):
    """``cell[0]`` is a deadline, or 0.0 if the term is over; 0.0 in every process that was forked since."""

    def __getitem__(self, index: int, /) -> float: ...

    def __setitem__(self, index: int, value: float, /) -> None: ...


class PidCell:
    """The cell where the kernel cannot wipe pages: it compares the process id."""

    def __init__(self, deadline: float) -> None:
        self._pid, self._deadline = os.getpid(), deadline

    def __getitem__(self, index: int, /) -> float:
        return self._deadline if self._pid == os.getpid() else 0.0

    def __setitem__(self, index: int, value: float, /) -> None:
        self._deadline = value


def new_cell(deadline: float) -> Cell:
    """Return a cell with this deadline, on a memory page of its own. Local: about ten microseconds."""
    if platform.system() == "Linux":
        try:
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_MADV_WIPEONFORK)
        except OSError:
            return PidCell(deadline)
        cell = memoryview(page).cast("d")
        cell[0] = deadline
        return cell
    return PidCell(deadline)


class DeadlineLink:
    """A deadline of a term, and the one that follows it, which is set once."""

    __slots__ = ("_next", "deadline")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._next: dict[str, DeadlineLink] = {}

    def set_next_once(self, link: DeadlineLink) -> DeadlineLink:
        """Set what follows to ``link``, unless it is set already. Return what follows. Atomic."""
        return self._next.setdefault(_NEXT, link)


ENDED = DeadlineLink(0.0)
ENDED.set_next_once(ENDED)


class Grant:
    """One term of this process: its token, and until when it lasts."""

    __slots__ = ("_last", "_waiting", "cell", "reason", "token")

    def __init__(self, token: int, cell: Cell) -> None:
        self.token, self.cell = token, cell
        self.reason = ""
        """Why the candidate ended the term; empty before. A reader that finds it over may be earlier than this."""
        self._last = DeadlineLink(cell[0])
        # A held lock for each thread that waits: an ``Event`` could not be set in a signal handler that has interrupted
        # a thread which waits for it. Each thread appends and removes its own, and ``wake`` removes any.
        self._waiting: list[threading.Lock] = []

    @property
    def deadline(self) -> float:
        """The last deadline, also if the term ended before it. Local."""
        return self._last.deadline

    def left(self, now: float) -> float:
        """Return the seconds from ``now`` until the term is over; 0.0, for good, once it is over.

        Local, any thread, any signal handler.
        """
        link = self._last
        while self.cell[0]:
            if now < link.deadline:
                return link.deadline - now
            link = link.set_next_once(ENDED)
            if link is ENDED:
                self.cell[0] = 0.0
        return 0.0

    def extend(self, deadline: float) -> bool:
        """Extend the term until ``deadline``. Return False if it was over before. Local, one caller at a time."""
        new = DeadlineLink(deadline)
        # Read the cell again right before writing it: a signal handler may have forked, and this may be the child.
        if self._last.set_next_once(new) is new and self.cell[0]:
            self.cell[0] = deadline
            self._last = new
            return True
        self.cell[0] = 0.0
        return False

    def end(self, reason: str) -> None:
        """End the term. Local."""
        self.reason = reason  # first, so that a thread that sees the end can read it
        self.cell[0] = 0.0
        self.wake()

    def wait(self, seconds: float) -> None:
        """Return when ``end`` or ``wake`` is called, at once if the term was ended, or after ``seconds``. Any thread.

        The end of the deadline wakes no thread, so ``seconds`` should not exceed what is left.
        """
        waiter = locked()
        self._waiting.append(waiter)
        if self.cell[0]:  # read behind the append, because an ``end`` between the two would not be seen otherwise
            waiter.acquire(timeout=seconds)
        with suppress(ValueError):
            self._waiting.remove(waiter)

    def wake(self) -> None:
        """Wake the threads that wait. Local, never blocks: also in a signal handler."""
        while self._waiting:
            with suppress(IndexError):  # another thread wakes them, too
                self._waiting.pop().release()


NO_GRANT = Grant(0, [0.0])

Publish = Callable[[Grant], None]
