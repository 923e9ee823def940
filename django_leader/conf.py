"""The entries of ``LEADER_ELECTIONS``, and of each where its election starts by itself.

Every process of a project reads this when it starts, also a process that is a candidate in no election. So nothing is
imported here that such a process does not have anyway. ``settings`` reads the rest of an entry when the election is
first used.
"""

from __future__ import annotations

from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

DEFAULT_ALIAS = "default"
COMMAND_PREFIX = "command:"
BEAT_ALIAS = "beat"
"""The election of the schedulers of Celery beat in ``django_leader.celery``."""

Autostart = bool | Literal["auto"]


class UnknownElection(ImproperlyConfigured, KeyError):
    """No such alias in the settings. Also a ``KeyError``, because ``elections`` is a mapping."""

    __str__ = Exception.__str__  # that of KeyError would put the text in quotes


def configured() -> dict[str, dict[str, Any]]:
    """Return ``LEADER_ELECTIONS`` as it stands. Raise ``ImproperlyConfigured`` when it is no dict of dicts."""
    value = getattr(settings, "LEADER_ELECTIONS", None)
    if value is None:
        return {DEFAULT_ALIAS: {}}
    if value == {}:
        raise ImproperlyConfigured("LEADER_ELECTIONS is empty; leave it out for one election, or add 'default'")
    entries = value.items() if isinstance(value, dict) else [(None, None)]
    if not all(isinstance(alias, str) and alias and isinstance(entry, dict) for alias, entry in entries):
        raise ImproperlyConfigured("LEADER_ELECTIONS must be a dict of dicts, like {'default': {'CACHE': 'default'}}")
    return dict(value)


def entry_of(alias: str) -> tuple[str, dict[str, Any]]:
    """Return the alias under which the settings of the election ``alias`` stand, and these settings. Local.

    The election of a command, or of Celery beat, that is not declared has the settings of ``default``. Where the others
    are declared and ``default`` is not, it has the package's defaults, but starts nowhere by itself, because the
    project has not asked for it. Raise ``UnknownElection``, which names the aliases that exist, or what ``configured``
    raises.
    """
    entries = configured()
    source = DEFAULT_ALIAS if own_process(alias) and alias not in entries else alias
    if source in entries:
        return source, entries[source]
    if source == DEFAULT_ALIAS:
        return source, {"AUTOSTART": False}
    known = ", ".join(map(repr, entries))
    raise UnknownElection(
        f"LEADER_ELECTIONS[{source!r}]: there is no such election (there are: {known}); add it to the setting"
    )


def own_process(alias: object) -> bool:
    """Return whether the election ``alias`` is that of a command or of Celery beat, which no other process joins."""
    return isinstance(alias, str) and (alias.startswith(COMMAND_PREFIX) or alias == BEAT_ALIAS)


def starting(alias: str, entry: dict[str, Any]) -> tuple[Autostart, tuple[str, ...]]:
    """Return ``AUTOSTART`` and ``SERVING_COMMANDS`` of an entry. Raise ``ImproperlyConfigured``."""
    label = f"LEADER_ELECTIONS[{alias!r}]"
    autostart = entry.get("AUTOSTART", False if own_process(alias) else "auto")
    serving = entry.get("SERVING_COMMANDS", ())
    if not isinstance(autostart, bool) and autostart != "auto":
        raise ImproperlyConfigured(f"{label}: AUTOSTART is {autostart!r}; use True, False or 'auto'")
    if not isinstance(serving, list | tuple) or not all(isinstance(name, str) for name in serving):
        raise ImproperlyConfigured(f"{label}: SERVING_COMMANDS is {serving!r}; give a list of management commands")
    return autostart, tuple(serving)
