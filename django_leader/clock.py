"""The boot clock: seconds since the machine started, counting the time that it was suspended.

A lease goes on while a laptop or a VM sleeps, so the clock that measures it must go on, too.
``CLOCK_MONOTONIC`` stands still during a suspend on Linux; it is the fallback elsewhere.
Wall time never decides anything in favour of a candidate, because it can be set. It may refuse a proof of death: see
``process.same_boot``.
"""

from __future__ import annotations

import time

BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on the boot clock. Local; comparable only within one boot of one machine."""
    return time.clock_gettime(BOOT_CLOCK)
