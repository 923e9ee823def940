"""System checks of ``LEADER_ELECTIONS``. They connect to nothing."""

from __future__ import annotations

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from . import connection
from .conf import configured
from .handler import KEYS, ElectionSettings, read

NUMBERS = {key: number + (number > 12) for number, key in enumerate(KEYS, 3)}
"""The number of the checks of each setting. E013 is about two elections."""
LONG_TTL = 3600.0
"""Seconds. A lease above it is more often one in milliseconds than one that is meant."""


def check_elections() -> list[CheckMessage]:
    """Every setting of every election. An error and a warning about the same setting have the same number."""
    try:
        aliases = list(configured())
    except ImproperlyConfigured as error:
        return [Error(str(error), id="django_leader.E001")]
    messages: list[CheckMessage] = []
    readable: list[ElectionSettings] = []
    for alias in aliases:
        try:
            found = read(alias)
        except ImproperlyConfigured as error:
            setting = str(error).removeprefix(f"LEADER_ELECTIONS[{alias!r}]: ").split(" ")[0]
            number = NUMBERS.get(setting, 2)
            messages.append(Error(str(error), id=f"django_leader.E{number:03}"))
            continue
        readable.append(found)
        messages += _check_one(found)
    return messages + _check_together(readable)


def _check_one(found: ElectionSettings) -> list[CheckMessage]:
    label = f"LEADER_ELECTIONS[{found.alias!r}]"
    messages: list[CheckMessage] = []
    if why := connection.problem(found.cache):
        messages.append(Error(f"{label}: {why}", id="django_leader.E003"))
    for repair in found.config.repairs():
        field, rest = repair.split(" ", 1)
        hint = (
            "HEARTBEAT_INTERVAL must leave time for two tries within LOCK_TTL; a third of it is usual."
            if field == "heartbeat_interval"
            else "Give a positive number of seconds, or leave the key out for the default."
        )
        number = NUMBERS[field.upper()]
        messages.append(Warning(f"{label}: {field.upper()} {rest}", hint=hint, id=f"django_leader.W{number:03}"))
    timing = found.config.validate().timing
    if 0 < timing.quarantine < timing.ttl:
        text = f"{label}: QUARANTINE is {timing.quarantine:g} s, shorter than LOCK_TTL: when Redis has lost its data "
        text += "another process can be elected while the last leader's lease goes on"
        hint = "Give at least the longest LOCK_TTL that any process uses, or leave the key out."
        messages.append(Warning(text, hint=hint, id=f"django_leader.W{NUMBERS['QUARANTINE']:03}"))
    if timing.ttl > LONG_TTL:
        text = f"{label}: LOCK_TTL is {timing.ttl:g} s, and so long nobody leads when the leader's host dies"
        hint = "Durations are in seconds, not milliseconds."
        messages.append(Warning(text, hint=hint, id="django_leader.W001"))
    return messages


def _check_together(readable: list[ElectionSettings]) -> list[CheckMessage]:
    owners: dict[tuple[str, str], str] = {}
    messages: list[CheckMessage] = []
    for found in readable:
        for key in found.config.keys:
            owner = owners.setdefault((found.cache, key), found.alias)
            if owner != found.alias:
                text = f"LEADER_ELECTIONS[{found.alias!r}]: uses the key {key!r}, and so does {owner!r}"
                hint = "Give each election a REDIS_KEY_NAME and a REDIS_INFO_KEY_NAME of its own, or neither."
                messages.append(Error(text, hint=hint, id="django_leader.E013"))
                break
    return messages


def check_deployment() -> list[CheckMessage]:
    """Advice for production, with ``check --deploy``: W002."""
    try:
        shared = [alias for alias in configured() if read(alias).cache == "default"]
    except ImproperlyConfigured:
        return []  # check_elections says so
    if not shared:
        return []
    return [
        Warning(
            f"LEADER_ELECTIONS[{shared[0]!r}]: shares the Redis database of the cache 'default', and cache.clear() "
            "empties it, the lease included",
            hint="Give elections a CACHES entry with a Redis database of its own, and name it with CACHE.",
            id="django_leader.W002",
        )
    ]
