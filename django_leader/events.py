"""What can happen to a candidate. ``machine`` says what follows from it.

NOT guaranteed here: anything. An event says what was seen, not when it was true; the machine looks at the clock first.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .records import Answer

Reason = Literal["resigned", "expired", "taken", "quarantined", "data-lost", "callback-failed"]


class Campaigned(NamedTuple):
    """A campaign was answered, or a look."""

    asked_at: float
    answer: Answer
    chance: float


class Renewed(NamedTuple):
    """A renewal was answered."""

    asked_at: float
    answer: Answer


class Failed(NamedTuple):
    """A request failed, or its outcome is unknown."""

    chance: float


class Tick(NamedTuple):
    """Time has passed."""


class Woken(NamedTuple):
    """A leader let go: campaign now."""


class Died(NamedTuple):
    """The process of the candidacy ``holder``, which was granted ``token``, is dead: nothing of it runs any more."""

    holder: str
    token: int


class Broken(NamedTuple):
    """Somebody saw the term with this token after its deadline: it must not go on."""

    token: int


class Resign(NamedTuple):
    """The term with this token ends by our own will. Another term is not touched."""

    token: int
    reason: Reason


class Delivered(NamedTuple):
    """The loss callbacks of the term with this token have returned."""

    token: int


class Released(NamedTuple):
    """The release was sent. What it missed, time does."""


class Stop(NamedTuple):
    """Take part no longer."""


AnyEvent = Campaigned | Renewed | Failed | Tick | Woken | Died | Broken | Resign | Delivered | Released | Stop
