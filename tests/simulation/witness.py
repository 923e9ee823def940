"""What a process knows of the server's clock, told from outside."""

from __future__ import annotations

import math

WRONG = 0.1
"""Part of a duration by which two clocks differ less."""


class Witness:
    """What a process has seen of the server's clock, and so what it can tell."""

    def __init__(self) -> None:
        self._shown, self._at, self._ahead = 0.0, 0.0, -math.inf

    def saw(self, at: float, wall: float) -> None:
        """Note that the server's clock showed ``wall`` at the true instant ``at``."""
        self._shown = max(self.shown(at), wall)
        self._at, self._ahead = at, wall - at

    def shown(self, at: float) -> float:
        """Return the latest time that the process knows the server's clock to have shown."""
        return max(self._shown, self._at + (1 - WRONG) * (at - self._at) + self._ahead)
