"""The boot clock: seconds since the machine started, counting the time that it was suspended.

A lease goes on while a laptop or a VM sleeps, so the clock that measures it must go on, too.
``CLOCK_MONOTONIC`` stands still during a suspend on Linux; it is the fallback elsewhere.
The wall clock does not measure a lease, because it can be set. It may refuse a proof of death (``pidfd.same_boot``),
and beside the server's clock it says how long ago another host has released a lease with a delay (``hold``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))
clock_gettime: Callable[[int], float] = getattr(time, "clock_gettime", lambda clock: time.monotonic())
"""``time.clock_gettime``. Where there is none, on Windows, no process is a candidate."""


def now() -> float:
    """Return the seconds on the boot clock. Local; comparable only within one boot of one machine."""
    return clock_gettime(BOOT_CLOCK)
