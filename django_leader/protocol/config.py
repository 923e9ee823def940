"""How an election is configured: the durations, the names, their defaults and their limits, in one place.

Durations are seconds, as a number or a ``timedelta``. An empty, zero or negative value means "the default" (but a
quarantine of zero means none), and a heartbeat that cannot keep its lease becomes a third of it: ``validate()`` repairs
these and ``repairs()`` names them. A value that cannot be meant, like text for a duration or braces in a key, raises
``ConfigError``.
"""

from __future__ import annotations

import math
import platform
import re
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

from django_leader.exceptions import ConfigError

from .records import LONGEST_NAME, UNPRINTABLE

Duration = float | timedelta

SHORTEST_TTL = 0.1
"""Seconds. Below it the drift margin and two tries of a renewal no longer fit in a lease."""
SHORTEST_INTERVAL = 0.01
"""Seconds. Below it a candidate would do nothing but ask Redis."""
LONGEST_DURATION = 366 * 86400.0
"""Seconds. Above it a value is a mistake of units, and Redis' own limits come near."""
LONGEST_OPERATION = 2.0
"""Seconds that one Redis operation may take, however long the lease. It bounds the time that a stop takes."""
FINGERPRINT_LENGTH = 8
"""Characters of the text by which other projects know a project."""
MOST_REPLICAS = 100
"""More than any primary has. A higher value is a mistake."""

TEXTS = ("redis_key_name", "redis_info_key_name", "instance_id", "hostname")
DURATIONS = ("lock_ttl", "heartbeat_interval", "retry_interval")
"""The fields of which an empty one, a zero or a negative one means the default."""

_TAGGED = re.compile(r"^[^{}]*\{[^{}]+\}[^{}]*$")


class Timing(NamedTuple):
    """The durations of a valid configuration, in seconds, as the machine uses them."""

    ttl: float
    heartbeat: float
    retry: float
    margin: float
    operation: float
    quarantine: float
    replicas: int


class Keys(NamedTuple):
    """Every Redis key of one election, in the order in which the scripts take them."""

    lock: str
    info: str
    state: str
    candidates: str
    events: str
    wake: str


@dataclass(frozen=True)
class Config:
    """The settings of an election. Frozen; ``validate()`` returns a copy that is fit for use.

    ``quarantine``: seconds for which no candidate is elected after Redis has lost data; None is the lease, 0 turns it
    off. ``min_replicas``: how many replicas must have a grant or a renewal before it counts. The set of servers must be
    fixed; raise the number before you add a server. ``same_host_takeover``: whether another candidate may claim the
    lease of this process when it dies, and whether this process claims that of one that dies on its host. Turn it off
    where child processes continue to work for a leader. ``handle_sigterm``: whether SIGTERM hands over before the
    process ends as it would without us. ``projects``: short texts that each name the project of this process; the first
    is published. A warning is logged about a candidate of another project, but not if either names none.

    Raise ``ConfigError`` at once for a value of a kind that can never be used.
    """

    redis_key_name: str = "maplefile:leader:lock"
    redis_info_key_name: str = "maplefile:leader:info"
    lock_ttl: Duration = 10.0
    heartbeat_interval: Duration = 3.0
    retry_interval: Duration = 2.0
    instance_id: str = ""
    hostname: str = ""
    quarantine: Duration | None = None
    min_replicas: int = 0
    same_host_takeover: bool = True
    handle_sigterm: bool = True
    projects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.quarantine is not None:
            object.__setattr__(self, "quarantine", _seconds("quarantine", self.quarantine))
        _check_replicas(self.min_replicas)
        for name in ("same_host_takeover", "handle_sigterm"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} is {value!r}; use True or False")
        if not isinstance(self.projects, tuple) or not all(isinstance(name, str) for name in self.projects):
            raise ConfigError(f"projects is {self.projects!r}; give a tuple of str")
        for name in TEXTS:
            object.__setattr__(self, name, _text(name, getattr(self, name)))
        for name in DURATIONS:
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name in ("instance_id", "hostname"):
            _check_name(name, getattr(self, name))
        _check_keys(self.keys)
        for name in ("heartbeat_interval", "retry_interval"):
            if 0 < getattr(self, name) < SHORTEST_INTERVAL:
                raise ConfigError(f"{name} is {getattr(self, name):g} s; give at least {SHORTEST_INTERVAL:g} s")
        if 0 < self.timing.ttl < SHORTEST_TTL:
            raise ConfigError(
                f"lock_ttl is {self.timing.ttl:g} s; the shortest lease that can be kept is "
                f"{SHORTEST_TTL:g} s (durations are in seconds). Set a longer one; the default is 10."
            )

    def validate(self) -> Config:
        """Return a copy with the defaults filled in and impossible intervals repaired. Local; never raises.

        Empty texts and durations that are not positive become the default. A heartbeat that does not leave time for two
        tries within the lease becomes a third of the lease. The instance id is made of the host's name and a random
        suffix, new at each call, so that no two processes share it.
        """
        values: dict[str, Any] = {
            name: default
            for name, default in DEFAULTS.items()
            if not getattr(self, name) or (isinstance(default, float) and getattr(self, name) <= 0)
        }
        if _seconds("quarantine", self.quarantine) < 0:
            values["quarantine"] = None
        hostname = self.hostname or UNPRINTABLE.sub("", platform.node())[:LONGEST_NAME] or "localhost"
        suffix = uuid.uuid4().hex[:8]
        values["hostname"] = hostname
        values["instance_id"] = self.instance_id or f"{hostname[: LONGEST_NAME - len(suffix) - 1]}-{suffix}"
        valid = replace(self, **values)
        if valid.timing.heartbeat >= _latest_heartbeat(valid.timing.ttl):
            valid = replace(valid, heartbeat_interval=valid.timing.ttl / 3)
        return valid

    def repairs(self) -> list[str]:
        """Return what ``validate()`` would change of the given values, a sentence each. Local."""
        valid = self.validate()
        changed = [
            f"{name} is {getattr(self, name)!r}, which cannot be used; {getattr(valid, name)!r} is used instead"
            for name in DEFAULTS
            if getattr(self, name) != getattr(valid, name)
        ]
        if self.quarantine != valid.quarantine:
            changed.append(
                f"quarantine is {self.quarantine!r}, which cannot be used; {valid.timing.quarantine!r} is used instead"
            )
        return changed

    @property
    def timing(self) -> Timing:
        """The durations as numbers, and the durations that follow from them.

        ``margin`` is the time by which the deadline comes before the end of the lease, because clocks drift: 2 % of the
        lease, at least 10 ms. ``operation`` is the timeout of one Redis operation. It is so short that two tries fit
        between a heartbeat and the deadline. Each try is two operations where replicas must confirm it.
        """
        names = ("lock_ttl", "heartbeat_interval", "retry_interval")
        ttl, heartbeat, retry = (_seconds(name, getattr(self, name)) for name in names)
        margin = margin_of(ttl)
        operations = 4 if self.min_replicas else 2
        operation = min(ttl / 3, 0.99 * (ttl - heartbeat - margin) / operations, LONGEST_OPERATION)
        quarantine = ttl if self.quarantine is None else _seconds("quarantine", self.quarantine)
        return Timing(ttl, heartbeat, retry, margin, operation, quarantine, self.min_replicas)

    @property
    def keys(self) -> Keys:
        """The names of the election's keys. All but the info key share the lock's slot on a Redis Cluster."""
        lock = self.redis_key_name or DEFAULTS["redis_key_name"]
        root = lock if "{" in lock else f"{{{lock}}}"
        own = (f"{root}:{part}" for part in ("state", "candidates", "events", "wake"))
        return Keys(lock, self.redis_info_key_name or DEFAULTS["redis_info_key_name"], *own)

    def derive(self, name: str) -> Config:
        """Return the same configuration for another election beside this one: its keys end in ``:name``. Local."""
        return replace(self, redis_key_name=f"{self.keys.lock}:{name}", redis_info_key_name=f"{self.keys.info}:{name}")


DEFAULTS: dict[str, Any] = {name: getattr(Config, name) for name in (*TEXTS[:2], *DURATIONS)}
"""The defaults that are fixed. Those of the two other texts are generated when they are needed."""


def inbox(keys: Keys, candidate_id: str) -> str:
    """Return the key of the list from which the candidate ``candidate_id`` takes its messages."""
    return f"{keys.wake.removesuffix('wake')}inbox:{candidate_id}"


def lifetime(timing: Timing) -> int:
    """Return the milliseconds for which a candidate counts without a sign of life."""
    return math.ceil((timing.ttl + max(timing.retry, timing.heartbeat)) * 1000)


def margin_of(ttl: float) -> float:
    """Return the seconds by which the deadline of a lease of ``ttl`` seconds comes early, because clocks drift."""
    return max(0.010, 0.02 * ttl)


def _latest_heartbeat(ttl: float) -> float:
    """Return the interval at which a tenth of the lease is left between a heartbeat and the deadline.

    A tenth is the least into which two tries may have to fit.
    """
    return ttl - margin_of(ttl) - ttl / 10


def _seconds(name: str, value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; give seconds as a number or a timedelta, for example 10")
    if not math.isfinite(value) or value > LONGEST_DURATION:
        raise ConfigError(f"{name} is {value!r}; give a finite number of seconds, at most {LONGEST_DURATION:.0f}")
    return float(value)


def _check_replicas(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_REPLICAS:
        raise ConfigError(f"min_replicas is {value!r}; give a whole number of replicas, at most {MOST_REPLICAS}")


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; give a str, not {type(value).__name__}")
    return value


def _check_name(name: str, value: str) -> None:
    if len(value) > LONGEST_NAME:
        raise ConfigError(f"{name} has {len(value)} characters; give at most {LONGEST_NAME}")
    if UNPRINTABLE.search(value):
        raise ConfigError(f"{name} is {value!r}; take the control characters out, it is shown in logs and pages")


def _check_keys(keys: Keys) -> None:
    for name, key in (("redis_key_name", keys.lock), ("redis_info_key_name", keys.info)):
        if UNPRINTABLE.search(key):
            raise ConfigError(f"{name} is {key!r}; take the control characters out")
        if ("{" in key or "}" in key) and not _TAGGED.match(key):
            raise ConfigError(
                f"{name} is {key!r}; braces mark a Redis Cluster hash tag and are allowed only as one non-empty "
                f"pair, like 'app:{{leader}}:lock'. Take them out or complete the pair."
            )
    if keys.info in (keys.lock, *keys[2:]):
        raise ConfigError(
            f"redis_info_key_name is {keys.info!r}, which the election uses for something else; "
            f"give the info key a name of its own"
        )
