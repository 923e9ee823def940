"""Makes exactly one process of a Django fleet the leader, through Redis.

Importing this package opens no connection, starts no thread and reads no setting. Its names are imported when they are
first used, because every process of a project imports the package, and most of these processes are no candidates.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conf import UnknownElection
    from .decorators import leader_required
    from .exceptions import ConfigError, LeaderError, LeadershipLost, NotLeader, RedisUnavailable, StaleToken
    from .fencing import FencedManager, FencedModel, FencedQuerySet, afenced_update, fenced_transaction, fenced_update
    from .guards import assert_leader, leader_only
    from .handler import elections, is_leader
    from .jobs import periodic
    from .once import once_per_slot
    from .protocol.config import Config
    from .protocol.records import ElectionStatus, Event, LeaderInfo, NotRun
    from .runtime.election import LeaderElection
    from .runtime.fenced import FencedCache, FencedRedis
    from .runtime.runs import Run
    from .runtime.term import Term
    from .signals import became_leader, leader_changed, lost_leadership

__version__ = "0.1.0"

__all__ = [
    "Config",
    "ConfigError",
    "ElectionStatus",
    "Event",
    "FencedCache",
    "FencedManager",
    "FencedModel",
    "FencedQuerySet",
    "FencedRedis",
    "LeaderElection",
    "LeaderError",
    "LeaderInfo",
    "LeadershipLost",
    "NotLeader",
    "NotRun",
    "RedisUnavailable",
    "Run",
    "StaleToken",
    "Term",
    "UnknownElection",
    "afenced_update",
    "assert_leader",
    "became_leader",
    "elections",
    "fenced_transaction",
    "fenced_update",
    "is_leader",
    "leader_changed",
    "leader_only",
    "leader_required",
    "lost_leadership",
    "once_per_slot",
    "periodic",
]

_MODULES = {
    "conf": ("UnknownElection",),
    "protocol.config": ("Config",),
    "decorators": ("leader_required",),
    "guards": ("assert_leader", "leader_only"),
    "runtime.election": ("LeaderElection",),
    "runtime.fenced": ("FencedCache", "FencedRedis"),
    "runtime.runs": ("Run",),
    "runtime.term": ("Term",),
    "exceptions": ("ConfigError", "LeaderError", "LeadershipLost", "NotLeader", "RedisUnavailable", "StaleToken"),
    "fencing": (
        "FencedManager",
        "FencedModel",
        "FencedQuerySet",
        "afenced_update",
        "fenced_transaction",
        "fenced_update",
    ),
    "handler": ("elections", "is_leader"),
    "jobs": ("periodic",),
    "once": ("once_per_slot",),
    "protocol.records": ("ElectionStatus", "Event", "LeaderInfo", "NotRun"),
    "signals": ("became_leader", "leader_changed", "lost_leadership"),
}


if not TYPE_CHECKING:  # type checkers know the names from above, and no other

    def __getattr__(name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
