"""The entries of ``LEADER_ELECTIONS``, and of each where its election starts by itself.

Every process of a project reads this when it starts, also one that takes part in no election: nothing is imported here
that such a process does not have anyway. What else is in an entry, ``handler`` reads when the election is first used.
"""

from __future__ import annotations

from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

DEFAULT_ALIAS = "default"
COMMAND_PREFIX = "command:"

Autostart = bool | Literal["auto"]


def configured() -> dict[str, dict[str, Any]]:
    """``LEADER_ELECTIONS`` as it stands. Raises ``ImproperlyConfigured`` when it is no dict of dicts."""
    value = getattr(settings, "LEADER_ELECTIONS", None)
    if value is None:
        return {DEFAULT_ALIAS: {}}
    if value == {}:
        raise ImproperlyConfigured("LEADER_ELECTIONS is empty; leave it out for one election, or add 'default'")
    entries = value.items() if isinstance(value, dict) else [(None, None)]
    if not all(isinstance(alias, str) and alias and isinstance(entry, dict) for alias, entry in entries):
        raise ImproperlyConfigured("LEADER_ELECTIONS must be a dict of dicts, like {'default': {'CACHE': 'default'}}")
    return dict(value)


def starting(alias: str, entry: dict[str, Any]) -> tuple[Autostart, tuple[str, ...]]:
    """``AUTOSTART`` and ``SERVING_COMMANDS`` of an entry. Raises ``ImproperlyConfigured``."""
    label = f"LEADER_ELECTIONS[{alias!r}]"
    autostart = entry.get("AUTOSTART", False if alias.startswith(COMMAND_PREFIX) else "auto")
    serving = entry.get("SERVING_COMMANDS", ())
    if not isinstance(autostart, bool) and autostart != "auto":
        raise ImproperlyConfigured(f"{label}: AUTOSTART is {autostart!r}; use True, False or 'auto'")
    if not isinstance(serving, list | tuple) or not all(isinstance(name, str) for name in serving):
        raise ImproperlyConfigured(f"{label}: SERVING_COMMANDS is {serving!r}; give a list of management commands")
    return autostart, tuple(serving)
