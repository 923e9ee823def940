"""The settings of an election: an entry of ``LEADER_ELECTIONS``, read and checked. Connects to nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from .conf import DEFAULT_ALIAS, Autostart, entry_of, starting
from .exceptions import ConfigError
from .fingerprint import fingerprints
from .protocol.config import Config

FIELDS = {
    "REDIS_KEY_NAME": "redis_key_name",
    "REDIS_INFO_KEY_NAME": "redis_info_key_name",
    "LOCK_TTL": "lock_ttl",
    "HEARTBEAT_INTERVAL": "heartbeat_interval",
    "RETRY_INTERVAL": "retry_interval",
    "INSTANCE_ID": "instance_id",
    "HOSTNAME": "hostname",
    "QUARANTINE": "quarantine",
    "MIN_REPLICAS": "min_replicas",
    "SAME_HOST_TAKEOVER": "same_host_takeover",
    "HANDLE_SIGTERM": "handle_sigterm",
    "JOB_THREADS": "job_threads",
}
"""The settings that are fields of ``Config``."""
KEYS = ("CACHE", *FIELDS, "AUTOSTART", "SERVING_COMMANDS", "LOCAL")
"""All settings of an election."""


@dataclass(frozen=True)
class ElectionSettings:
    """One entry of ``LEADER_ELECTIONS``, with the defaults filled in."""

    alias: str
    cache: str
    autostart: Autostart
    serving_commands: tuple[str, ...]
    config: Config
    local: bool = False


def read(alias: str) -> ElectionSettings:
    """Return the settings of the election ``alias``. Raise ``ImproperlyConfigured``, which says what to change.

    ``command:<name>`` is the election of a command, and ``beat`` that of Celery beat. Unless it is configured, it is
    like ``default``, but with keys of its own. That of a command never starts by itself unless ``AUTOSTART`` says so,
    and that of Celery beat never does. Every other alias but ``default`` gets keys that
    end in its name, too.
    """
    source, entry = entry_of(alias)
    command = source != alias
    label = f"LEADER_ELECTIONS[{source!r}]"
    if unknown := [key for key in entry if key not in KEYS]:
        raise ImproperlyConfigured(f"{label}: unknown key {unknown[0]!r}; take it out, or use one of {', '.join(KEYS)}")
    autostart, serving = starting(source, entry)
    cache = entry.get("CACHE", "default")
    if not isinstance(cache, str):
        raise ImproperlyConfigured(f"{label}: CACHE is {cache!r}; give the name of an entry of CACHES")
    if not isinstance(local := entry.get("LOCAL", False), bool):
        raise ImproperlyConfigured(f"{label}: LOCAL is {local!r}; use True or False")
    try:
        given = {field: entry[key] for key, field in FIELDS.items() if key in entry}
        config = Config(**given, projects=fingerprints())
        if alias != DEFAULT_ALIAS:
            own = config.derive(alias)
            config = own if command else replace(config, **_fill(config, own, entry))
    except ConfigError as error:
        raise ImproperlyConfigured(f"{label}: {as_settings(str(error))}") from error
    return ElectionSettings(alias, cache, False if command else autostart, serving, config, local)


def as_settings(text: str) -> str:
    """Return ``text`` with the settings in the place of the fields of ``Config``. Pure."""
    return re.sub(r"\b(" + "|".join(FIELDS.values()) + r")\b", lambda m: m[0].upper(), text)


def _fill(config: Config, own: Config, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``config``, with the keys of ``own`` where the entry names none."""
    return {
        field: getattr(own if key.startswith("REDIS") and not entry.get(key) else config, field)
        for key, field in FIELDS.items()
    }
