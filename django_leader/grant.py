"""What ``is_leader()`` reads: the deadline of a term, in a page that is wiped in every forked child.

NOT guaranteed here: anything about a process or a machine that was cloned while it ran.

The check is ``clock_gettime(BOOT_CLOCK) < grant.cell[0]``: one read, one clock call, one compare. The cell is 0.0 once
the term is over, and in a child from its first instruction on. ``os.register_at_fork`` is not called by a fork in C
(uWSGI makes its workers so), and ``os.getpid()`` is a system call, which would more than double the cost; but Linux
can wipe a page in every child (``MADV_WIPEONFORK``).

Once false, always false, and no lock. The deadline may pass under a reader's eyes while a renewal, accepted before,
is being published. Which of the two was first is decided by one atomic call: what follows a deadline is put into a
dict of its own by ``setdefault``, and whoever comes second finds what the first has put there.

- The reader was first: ``OVER`` follows. ``extend`` finds it, publishes nothing, and says so.
- The renewal was first: its deadline follows, whether the cell shows it yet or not. The reader goes by it.

So false is answered when the cell was 0.0, or when ``OVER`` follows the last deadline, to which then nothing can be
added. The second sets the cell to 0.0 as well; should an ``extend`` that was overtaken still write a deadline there,
then one that the clock has passed, so that everybody who looks later (a boot clock never goes back) finds ``OVER``.
"""

from __future__ import annotations

import mmap
import os
import platform
from collections.abc import Callable
from typing import Protocol

_MADV_WIPEONFORK = 18
_NEXT = "next"


class Cell(Protocol):
    """``cell[0]`` is a deadline; 0.0 when that is void, and in every process forked since."""

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
    """A cell with this deadline, a page of its own. Local: about ten microseconds."""
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


class Stretch:
    """A term up to one deadline, and what follows it, which is decided once."""

    __slots__ = ("_next", "deadline")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._next: dict[str, Stretch] = {}

    def followed_by(self, stretch: Stretch) -> Stretch:
        """What follows: ``stretch``, unless something did already. Atomic."""
        return self._next.setdefault(_NEXT, stretch)


OVER = Stretch(0.0)
OVER.followed_by(OVER)


class Grant:
    """One term of this process: its token, and until when it lasts."""

    __slots__ = ("_last", "cell", "token")

    def __init__(self, token: int, cell: Cell) -> None:
        self.token, self.cell = token, cell
        self._last = Stretch(cell[0])

    @property
    def deadline(self) -> float:
        """The last deadline, also if the term ended before it. Local."""
        return self._last.deadline

    def left(self, now: float) -> float:
        """Seconds until the term is over, at ``now``; 0.0: it is, for good. Local, any thread, any signal handler."""
        stretch = self._last
        while self.cell[0]:
            if now < stretch.deadline:
                return stretch.deadline - now
            stretch = stretch.followed_by(OVER)
            if stretch is OVER:
                self.cell[0] = 0.0
        return 0.0

    def extend(self, deadline: float) -> bool:
        """The term lasts until ``deadline``; False if it was over before. Local, one caller at a time."""
        new = Stretch(deadline)
        # The cell last, and right before it is written: a signal handler may have forked, and this be the child.
        if self._last.followed_by(new) is new and self.cell[0]:
            self.cell[0] = deadline
            self._last = new
            return True
        self.cell[0] = 0.0
        return False

    def end(self) -> None:
        """The term is over. Local."""
        self.cell[0] = 0.0


NO_GRANT = Grant(0, [0.0])

Publish = Callable[[Grant], None]
