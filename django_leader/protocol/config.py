"""How an election is configured: the durations, the names, their defaults and their limits, in one place.

Durations are seconds, as a number or a ``timedelta``. An empty, zero or negative value means the default (but a
quarantine of zero means none), and a heartbeat interval that cannot keep the lease becomes a third of ``lock_ttl``:
``validate()`` repairs these, and ``repairs()`` names them. A value that no repair can make usable, such as text for a
duration or an unpaired brace in a key, raises ``ConfigError``.
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
"""Seconds. In a shorter lease the margin and two tries of a renewal do not fit."""
SHORTEST_INTERVAL = 0.01
"""Seconds. At a shorter interval a candidate would do nothing but send requests."""
LONGEST_DURATION = 366 * 86400.0
"""Seconds. A longer one is a mistake of units, and comes near the limits of Redis."""
LONGEST_OPERATION = 2.0
"""Seconds that one Redis operation may take, however long the lease is, because a stop waits for it."""
FINGERPRINT_LENGTH = 8
"""Characters of the fingerprint by which other projects recognize a project."""
MOST_REPLICAS = 100
"""Replicas. No primary has so many, so a higher value is a mistake."""
MOST_JOB_THREADS = 1000
"""Threads. With more of them a process spends its time on changing between them."""

TEXTS = ("redis_key_name", "redis_info_key_name", "instance_id", "hostname")
PARTS = ("state", "candidates", "events", "wake", "inbox", "slots", "runs")
"""The ends of the keys of an election, beside its lock and its info."""
DURATIONS = ("lock_ttl", "heartbeat_interval", "retry_interval")
"""The fields in which None, zero or a negative value means the default."""

_TAGGED = re.compile(r"^[^{}]*\{[^{}]+\}[^{}]*$")


class Timing(NamedTuple):
    """The durations of a valid configuration, in seconds, and the two that follow from them."""

    ttl: float
    """Seconds. ``Config.lock_ttl``."""
    heartbeat: float
    """Seconds. ``Config.heartbeat_interval``."""
    retry: float
    """Seconds. ``Config.retry_interval``."""
    margin: float
    """Seconds by which a leader stops leading before its lease ends, because its clock and the server's may drift.

    It cannot be chosen: 2 % of the lease, at least 0.01; 0.2 by default.
    """
    operation: float
    """Seconds after which a Redis operation has failed: the timeout of the socket.

    It cannot be chosen: a third of the lease, at most ``LONGEST_OPERATION``, and so short that two tries of a renewal
    fit between a heartbeat and the deadline. A try is two operations where replicas must confirm it. 2 by default.
    """
    quarantine: float
    """Seconds. ``Config.quarantine``, with the lease in the place of None."""
    replicas: int
    """``Config.min_replicas``."""


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
    """The settings of an election, as they were given. Frozen; ``validate()`` returns those that are used.

    Raise ``ConfigError`` at once for a value of a kind that can never be used.
    """

    redis_key_name: str = "maplefile:leader:lock"
    """The key of the lease. All processes with the same key in the same Redis database elect one leader among them.

    Choose one for each project and stage. Braces mark the hash tag of a Redis Cluster: at most one non-empty pair.
    """
    redis_info_key_name: str = "maplefile:leader:info"
    """The key under which the leader describes itself. Choose one for each project and stage, as for the lease."""
    lock_ttl: Duration = 10.0
    """Seconds that a lease lasts after its last renewal: how long at most no process leads if a leader's host is lost.

    A longer lease survives longer stalls of Redis and of the leader's process. A shorter one replaces a lost leader
    sooner. Usually 10; at least 0.1.
    """
    heartbeat_interval: Duration = 3.0
    """Seconds between two renewals by the leader.

    A shorter interval leaves more time to repeat a failed renewal, and costs more requests. Usually a third of
    ``lock_ttl``: 3 for the default of 10. Two tries must fit between a heartbeat and the deadline; an interval that
    does not leave a tenth of the lease for them is replaced by a third of the lease.
    """
    retry_interval: Duration = 2.0
    """Seconds that a follower waits at Redis before it polls again, and at most between two tries while Redis fails.

    It bounds how late a follower notices a new leader, and a wake-up that was lost. It delays neither a hand-over,
    which wakes the followers, nor the take-over of an expired lease, whose end they wait for. A shorter interval costs
    more requests of every follower. Usually 2. In a fleet of more than 32 candidates each polls more rarely.
    """
    instance_id: str = ""
    """The name of this process in logs and pages. Usually empty, which means the host's name and a random suffix.

    Two processes with one name exclude each other.
    """
    hostname: str = ""
    """The name of this host in logs and pages. Usually empty, which means the name that the system reports."""
    quarantine: Duration | None = None
    """Seconds for which no candidate is elected after Redis has lost data, because a lost lease may still be valid.

    A healthy leader goes on leading. Give at least the longest ``lock_ttl`` that any process uses. Usually None, which
    means the ``lock_ttl`` of this process. 0 turns it off, so that two processes can lead after a loss of data: for
    development, or for a server that is started empty together with the processes.
    """
    min_replicas: int = 0
    """How many replicas must confirm a grant or a renewal before it counts.

    Usually 0: a server without replicas. With failover to a replica, give half of the replicas, rounded up, so that
    the primary and they are a majority: 1 of 2, 2 of 3 or 4. It costs a second round trip for each heartbeat, and no
    process leads while fewer replicas are attached. The set of servers must be fixed; raise the number before you add a
    server.
    """
    same_host_takeover: bool = True
    """Whether a candidate may claim the lease of a leader that dies on its host. Holds for this process in both roles.

    Such a take-over takes milliseconds instead of the rest of the lease. Usually True. Set it to False where child
    processes continue to work for a dead leader, and on machines resumed from a snapshot of running candidates.
    """
    job_threads: int = 32
    """How many runs of jobs may go on at a time in this process, in this election. Each has a thread.

    A slot that is due waits meanwhile, for its ``grace`` at most. Usually 32. Give less than the database takes
    connections, because each run may open one. Give more if many jobs mostly wait for something else.
    """
    handle_sigterm: bool = True
    """Whether this process hands over at SIGTERM, before it ends as it would have ended without this package.

    Usually True, because some servers die of SIGTERM without running any exit code. The next leader then waits until
    the death is noticed, or the lease ends. Set it to False where no other code may handle the signal.
    """
    projects: tuple[str, ...] = ()
    """Fingerprints that each identify the project of this process, of which the first is published.

    A warning is logged about a candidate that publishes another one; not if either has none. Usually the settings of
    Django fill it in.
    """

    def __post_init__(self) -> None:
        if self.quarantine is not None:
            self._set("quarantine", _seconds("quarantine", self.quarantine))
        _check_numbers(self.min_replicas, self.job_threads)
        for name in ("same_host_takeover", "handle_sigterm"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"{name} is {value!r}; use True or False")
        if not isinstance(self.projects, tuple) or not all(isinstance(name, str) for name in self.projects):
            raise ConfigError(f"projects is {self.projects!r}; give a tuple of str")
        for name in TEXTS:
            self._set(name, _text(name, getattr(self, name)))
        for name in DURATIONS:
            self._set(name, _seconds(name, getattr(self, name)))
        for name in ("instance_id", "hostname"):
            _check_name(name, getattr(self, name))
        _check_keys(self.keys)
        for name in ("heartbeat_interval", "retry_interval"):
            if 0 < getattr(self, name) < SHORTEST_INTERVAL:
                raise ConfigError(f"{name} is {getattr(self, name):g} s; give at least {SHORTEST_INTERVAL:g} s")
        if 0 < (ttl := _seconds("lock_ttl", self.lock_ttl)) < SHORTEST_TTL:
            raise ConfigError(
                f"lock_ttl is {ttl:g} s; the shortest lease that can be kept is "
                f"{SHORTEST_TTL:g} s (durations are in seconds). Set a longer one; the default is 10."
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # past the guard of a frozen dataclass

    def validate(self) -> ValidConfig:
        """Return a copy with the defaults filled in and impossible intervals repaired. Local; never raises.

        Empty texts and durations that are not positive become the default. A heartbeat that does not leave time for two
        tries within the lease becomes a third of the lease. The instance id is made of the host's name and a random
        suffix, new at each call, so that no two processes share it.
        """
        return ValidConfig(**vars(self))

    def repairs(self) -> list[str]:
        """Return a sentence for each value that ``validate()`` replaces. Local."""
        valid = self.validate()
        changed = [
            f"{name} is {getattr(self, name)!r}, {self._unusable(name)}; {getattr(valid, name)!r} is used instead"
            for name in DEFAULTS
            if getattr(self, name) != getattr(valid, name)
        ]
        if self.quarantine != valid.quarantine:
            changed.append(
                f"quarantine is {self.quarantine!r}, which cannot be used; {valid.timing.quarantine!r} is used instead"
            )
        return changed

    def _unusable(self, name: str) -> str:
        if name == "heartbeat_interval" and self.heartbeat_interval == DEFAULTS[name]:  # not chosen, but the lease was
            return f"the default, which is too long for the given lock_ttl of {self.lock_ttl!r}"
        return "which cannot be used"

    @property
    def keys(self) -> Keys:
        """The names of the election's keys. Local. All but the info key share the lock's slot on a Redis Cluster."""
        lock = self.redis_key_name or DEFAULTS["redis_key_name"]
        root = lock if "{" in lock else f"{{{lock}}}"
        own = (f"{root}:{part}" for part in ("state", "candidates", "events", "wake"))
        return Keys(lock, self.redis_info_key_name or DEFAULTS["redis_info_key_name"], *own)

    def derive(self, name: str) -> Config:
        """Return the same configuration for another election beside this one: its keys end in ``:name``. Local.

        Raise ``ConfigError`` for a ``name`` with control characters, with braces that do not make one non-empty pair in
        each key, or that makes one of this election's own keys.
        """
        own = replace(self, redis_key_name=f"{self.keys.lock}:{name}", redis_info_key_name=f"{self.keys.info}:{name}")
        if name in PARTS and "{" in self.keys.lock:
            key = own.redis_key_name
            raise ConfigError(f"redis_key_name is {key!r}, which is a key of another election; give another alias")
        return own


@dataclass(frozen=True)
class ValidConfig(Config):
    """The settings of an election, as they are used. ``Config.validate()`` returns one.

    Each new one is repaired, so that it cannot hold a value unfit for use. That includes a changed copy by
    ``dataclasses.replace()``, which keeps the instance id.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, default in DEFAULTS.items():
            if not (value := getattr(self, name)) or (isinstance(default, float) and value <= 0):
                self._set(name, default)
        if _seconds("quarantine", self.quarantine) < 0:
            self._set("quarantine", None)
        self._set("hostname", self.hostname or UNPRINTABLE.sub("", platform.node())[:LONGEST_NAME] or "localhost")
        suffix = uuid.uuid4().hex[:8]
        own = f"{self.hostname[: LONGEST_NAME - len(suffix) - 1]}-{suffix}"
        self._set("instance_id", self.instance_id or own)
        if self.timing.heartbeat >= _latest_heartbeat(self.timing.ttl):
            self._set("heartbeat_interval", self.timing.ttl / 3)

    @property
    def timing(self) -> Timing:
        """The durations as numbers, and the durations that follow from them."""
        names = ("lock_ttl", "heartbeat_interval", "retry_interval")
        ttl, heartbeat, retry = (_seconds(name, getattr(self, name)) for name in names)
        margin = margin_of(ttl)
        operations = 4 if self.min_replicas else 2
        operation = min(ttl / 3, 0.99 * (ttl - heartbeat - margin) / operations, LONGEST_OPERATION)
        quarantine = ttl if self.quarantine is None else _seconds("quarantine", self.quarantine)
        return Timing(ttl, heartbeat, retry, margin, operation, quarantine, self.min_replicas)


DEFAULTS: dict[str, Any] = {name: getattr(Config, name) for name in (*TEXTS[:2], *DURATIONS)}
"""The defaults that are fixed. ``validate()`` generates those of the host's name and the instance id."""


def inbox(keys: Keys, candidate_id: str) -> str:
    """Return the key of the list from which the candidate ``candidate_id`` takes its messages."""
    return f"{keys.wake.removesuffix('wake')}inbox:{candidate_id}"


def lifetime(timing: Timing) -> int:
    """Return the milliseconds for which a candidate is counted after its last request."""
    return math.ceil((timing.ttl + max(timing.retry, timing.heartbeat)) * 1000)


def margin_of(ttl: float) -> float:
    """Return the seconds between the deadline and the end of a lease of ``ttl`` seconds. See ``Timing.margin``."""
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


def _check_numbers(replicas: Any, threads: Any) -> None:
    if not _whole(replicas, 0, MOST_REPLICAS):
        raise ConfigError(f"min_replicas is {replicas!r}; give a whole number of replicas, 0 to {MOST_REPLICAS}")
    if not _whole(threads, 1, MOST_JOB_THREADS):
        raise ConfigError(f"job_threads is {threads!r}; give a whole number of threads, 1 to {MOST_JOB_THREADS}")


def _whole(value: Any, least: int, most: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, int) and least <= value <= most


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
