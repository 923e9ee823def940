"""Makes exactly one process of a Django fleet the leader, through Redis.

Importing this package opens no connection, starts no thread and reads no setting.
"""

from __future__ import annotations

from .config import Config
from .decorators import leader_required
from .election import LeaderElection
from .exceptions import ConfigError, LeaderError, LeadershipLost, RedisUnavailable
from .handler import elections, is_leader
from .records import ElectionStatus, Event, LeaderInfo
from .signals import became_leader, leader_changed, lost_leadership

__version__ = "0.1.0"

__all__ = [
    "Config",
    "ConfigError",
    "ElectionStatus",
    "Event",
    "LeaderElection",
    "LeaderError",
    "LeaderInfo",
    "LeadershipLost",
    "RedisUnavailable",
    "became_leader",
    "elections",
    "is_leader",
    "leader_changed",
    "leader_required",
    "lost_leadership",
]
