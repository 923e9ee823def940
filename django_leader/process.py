"""What one process can know of itself: whether it leads, and whether it is still the process that it was.

NOT guaranteed here: anything about a process or a machine that was cloned while it ran.

``os.register_at_fork`` is not called by a fork in C (uWSGI makes its workers so), and ``os.getpid()`` is a system
call, which would more than double the cost of ``is_leader()``. Linux can wipe a page in every child instead
(``MADV_WIPEONFORK``): reading one byte of it answers the question from the child's first instruction on.
"""

from __future__ import annotations

import mmap
import os
import platform
from dataclasses import dataclass
from typing import Protocol

_MADV_WIPEONFORK = 18


class Latch(Protocol):
    """``latch[0]`` is true until somebody sets it to 0, and false in every process forked since. Never true again."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class PidLatch:
    """The latch where the kernel cannot wipe pages: it compares the process id."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        return self._pid == os.getpid()

    def __setitem__(self, index: int, value: int, /) -> None:
        self._pid = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """What ``is_leader()`` reads: the term is ours until the deadline, unless the latch says that it is broken."""

    token: int
    deadline: float
    latch: Latch


NO_GRANT = Grant(0, 0.0, bytearray(1))


def new_latch() -> Latch:
    """A latch that is true. Local: about ten microseconds."""
    if platform.system() == "Linux":
        try:
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_MADV_WIPEONFORK)
        except OSError:
            return PidLatch()
        page[0] = 1
        return page
    return PidLatch()
