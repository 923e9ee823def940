"""System checks of ``LEADER_ELECTIONS``. They connect to nothing.

An error of Django's checks ends every command, ``migrate`` and ``test``, too. So a cache that cannot carry an election,
as is common on a laptop or a build machine, is a warning, and an error only before a deployment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from . import client
from .conf import DEFAULT_ALIAS, configured
from .protocol.config import DEFAULTS, SHORTEST_INTERVAL, SHORTEST_TTL
from .settings import FIELDS, ElectionSettings, as_settings, read
from .startup.autostart import VARIABLE, refusal
from .system.forks import unsupported

NUMBERS = {
    "CACHE": "003",
    "REDIS_KEY_NAME": "004",
    "REDIS_INFO_KEY_NAME": "005",
    "LOCK_TTL": "006",
    "HEARTBEAT_INTERVAL": "007",
    "RETRY_INTERVAL": "008",
    "INSTANCE_ID": "009",
    "HOSTNAME": "010",
    "AUTOSTART": "011",
    "SERVING_COMMANDS": "012",
    "QUARANTINE": "014",
    "MIN_REPLICAS": "015",
    "SAME_HOST_TAKEOVER": "016",
    "HANDLE_SIGTERM": "017",
    "LOCAL": "018",
    "JOB_THREADS": "023",
}
"""The number of the checks of each setting, which projects may silence: it never changes. 013 is about two elections
with one key, and others stand where they are used."""
HINTS = {
    **dict.fromkeys(("REDIS_KEY_NAME", "REDIS_INFO_KEY_NAME"), "Give a name, or leave the key out for the default."),
    "LOCK_TTL": f"Give at least {SHORTEST_TTL:g} seconds, or leave the key out for the default.",
    "HEARTBEAT_INTERVAL": f"Give at least {SHORTEST_INTERVAL:g} seconds, and leave time for two tries within LOCK_TTL; "
    "a third of it is usual.",
    "RETRY_INTERVAL": f"Give at least {SHORTEST_INTERVAL:g} seconds, or leave the key out for the default.",
    "QUARANTINE": "Give at least the longest LOCK_TTL that any process uses, 0 for none, or leave the key out.",
}
"""What to do about a value that is replaced."""
LONG_TTL = 3600.0
"""Seconds. A longer value is more often one in milliseconds than an intended lease."""


def check_elections() -> list[CheckMessage]:
    """Check every setting of every election. An error and a warning about one setting have the same number."""
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
            number = NUMBERS.get(setting, "002")
            messages.append(Error(str(error), id=f"django_leader.E{number}"))
            continue
        readable.append(found)
        messages += _check_one(found)
    if DEFAULT_ALIAS not in aliases:
        text = "LEADER_ELECTIONS has no 'default': is_leader() without an alias is False everywhere, and the elections "
        text += "of @leader_required commands have the default settings"
        hint = "Add 'default', or rename one of the others to it."
        messages.append(Warning(text, hint=hint, id="django_leader.W019"))
    return messages + _check_together(readable)


def _check_one(found: ElectionSettings) -> list[CheckMessage]:
    label = f"LEADER_ELECTIONS[{found.alias!r}]"
    messages: list[CheckMessage] = []
    if why := _carries_none(found):
        hint = "No process starts this election, and @leader_required commands fail. An error with check --deploy."
        messages.append(Warning(why, hint=hint, id="django_leader.W003"))
    for repair in found.config.repairs():
        setting = repair.split(" ", 1)[0].upper()
        text, number = f"{label}: {as_settings(repair)}", NUMBERS[setting]
        messages.append(Warning(text, hint=HINTS[setting], id=f"django_leader.W{number}"))
    timing = found.config.validate().timing
    if 0 < timing.quarantine < timing.ttl:
        text = f"{label}: QUARANTINE is {timing.quarantine:g} s, shorter than LOCK_TTL: when Redis has lost its data "
        text += "another process can be elected while the last leader's lease is still valid"
        hint = "Give at least the longest LOCK_TTL that any process uses, or leave the key out."
        messages.append(Warning(text, hint=hint, id="django_leader.W014"))
    if timing.ttl > LONG_TTL:
        text = f"{label}: LOCK_TTL is {timing.ttl:g} s: if the leader's host is lost, no process leads for that long"
        hint = "Durations are in seconds, not milliseconds."
        messages.append(Warning(text, hint=hint, id="django_leader.W001"))
    return messages


def _carries_none(found: ElectionSettings) -> str:
    """Return why the cache of an election cannot carry it; empty if it can, or if it does not have to."""
    why = None if found.local else client.problem(found.cache)
    return f"LEADER_ELECTIONS[{found.alias!r}]: {why}" if why else ""


def _check_together(readable: list[ElectionSettings]) -> list[CheckMessage]:
    owners: dict[tuple[object, str], ElectionSettings] = {}
    messages: list[CheckMessage] = []
    for found in readable:
        database = client.database(found.cache)
        for key in found.config.keys:
            owner = owners.setdefault((database, key), found)
            if owner is not found:
                text = f"LEADER_ELECTIONS[{found.alias!r}]: uses the key {key!r}, which {owner.alias!r} uses, too"
                if owner.cache != found.cache:
                    text += f" (the caches {found.cache!r} and {owner.cache!r} are one Redis database)"
                hint = "Give each election a REDIS_KEY_NAME and a REDIS_INFO_KEY_NAME of its own, or leave both out."
                messages.append(Error(text, hint=hint, id="django_leader.E013"))
                break
    return messages


def check_deployment() -> list[CheckMessage]:
    """Check what stands in the way of a deployment, and give advice for it: with ``check --deploy``."""
    try:
        readable = [read(alias) for alias in configured()]
    except ImproperlyConfigured:
        return []  # check_elections reports it
    hint = "Give a CACHE that all processes share, or take django_leader out of INSTALLED_APPS."
    messages: list[CheckMessage] = [
        Error(why, hint=hint, id="django_leader.E003") for found in readable if (why := _carries_none(found))
    ]
    messages += [
        Error(
            f"LEADER_ELECTIONS[{found.alias!r}]: LOCAL is True, so each process leads independently of the others",
            hint="Take LOCAL out, which is for development, and give a CACHE that all processes share.",
            id="django_leader.E018",
        )
        for found in readable
        if found.local
    ]
    shared = [found for found in readable if not found.local]
    return messages + [advice for advise in (_share_a_cache, _share_keys, _no_quarantine) for advice in advise(shared)]


def _share_a_cache(found: list[ElectionSettings]) -> Iterator[CheckMessage]:
    default = client.database("default")
    if labels := _labels(one for one in found if client.database(one.cache) == default):
        yield Warning(
            f"{labels}: shares the Redis database of the cache 'default', so cache.clear() deletes the keys of the "
            "election, too",
            hint="Give elections a CACHES entry with a Redis database of its own, and name it with CACHE.",
            id="django_leader.W002",
        )


def _share_keys(found: list[ElectionSettings]) -> Iterator[CheckMessage]:
    for setting in ("REDIS_KEY_NAME", "REDIS_INFO_KEY_NAME"):
        field, default = FIELDS[setting], DEFAULTS[FIELDS[setting]]
        # Also the names that are made of the default with an alias at the end.
        names = [(one, getattr(one.config, field) or default) for one in found]
        if labels := _labels(one for one, name in names if name in (default, f"{default}:{one.alias}")):
            yield Warning(
                f"{labels}: {setting} is the default: all projects that share the Redis database and use the "
                "default elect one leader among them",
                hint="Give each project and each stage names of its own: REDIS_KEY_NAME and REDIS_INFO_KEY_NAME.",
                id=f"django_leader.W{NUMBERS[setting]}",
            )


def _no_quarantine(found: list[ElectionSettings]) -> Iterator[CheckMessage]:
    if labels := _labels(one for one in found if one.config.validate().timing.quarantine == 0):
        yield Warning(
            f"{labels}: QUARANTINE is 0, so two processes can lead after Redis has lost its data, until the lease of "
            "the first one ends",
            hint="Leave the key out, unless Redis is started empty together with the processes.",
            id="django_leader.W014",
        )


def _labels(found: Iterable[ElectionSettings]) -> str:
    return ", ".join(f"LEADER_ELECTIONS[{one.alias!r}]" for one in found)


def check_process() -> list[CheckMessage]:
    """Check what keeps every election from starting in this process: E011, W011."""
    if why := unsupported():
        hint = "You can develop here: is_leader() is False, and @leader_required commands fail. "
        hint += "Run the leader's work on Linux, in WSL or a container."
        text = f"LEADER_ELECTIONS: this process is not participating: {why}"
        return [Warning(text, hint=hint, id="django_leader.W011")]
    if why := refusal(os.environ.get(VARIABLE, "")):
        hint = "No election starts by itself in a process that has this value in its environment."
        return [Error(f"LEADER_ELECTIONS: {why}", hint=hint, id="django_leader.E011")]
    return []
