"""System checks of the jobs: what ``@periodic`` cannot know where it stands. They connect to nothing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from .conf import configured
from .registry import MODULE, Registered, jobs
from .settings import read
from .system.starvation import green


def check_jobs() -> list[CheckMessage]:
    """Check the jobs of all apps, whose modules ``leader_jobs`` are imported for that."""
    found = jobs.all()
    messages: list[CheckMessage] = [
        Error(
            f"LEADER_ELECTIONS: the jobs of the app {app!r} do not run, because its module {MODULE} cannot be imported "
            f"({type(error).__name__}: {error})",
            hint="Import the module in manage.py shell to see where it fails.",
            id="django_leader.E020",
        )
        for app, error in sorted(jobs.broken.items())
    ]
    messages += [
        Error(
            f"LEADER_ELECTIONS[{job.election!r}]: two jobs have the name {job.spec.job.name!r}; that of {job.where} "
            "does not run",
            hint="Give one of them another name. The name is the key of its record in Redis.",
            id="django_leader.E021",
        )
        for job in jobs.duplicates
    ]
    messages += _check_packages()
    try:
        aliases = list(configured())
    except ImproperlyConfigured:
        return messages  # check_elections reports it
    for job in found:
        messages += _check_one(job, aliases)
    return messages


def _check_packages() -> list[CheckMessage]:
    """Find jobs in the package of the settings or of the URLs if it is no app, because nothing imports them."""
    names = {str(getattr(settings, name, "")).partition(".")[0] for name in ("SETTINGS_MODULE", "ROOT_URLCONF")}
    return [
        Warning(
            f"LEADER_ELECTIONS: the jobs of the module {package}.{MODULE} do not run, because {package!r} is not in "
            "INSTALLED_APPS, so nothing imports it",
            hint=f"Add {package!r} to INSTALLED_APPS, or move the module into an app.",
            id="django_leader.W021",
        )
        for package in sorted(names - {app.name for app in apps.get_app_configs()})
        if f"{package}.{MODULE}" not in sys.modules and _exists(f"{package}.{MODULE}")
    ]


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # settings in a module that is no package
        return False


def _check_one(job: Registered, aliases: list[str]) -> list[CheckMessage]:
    name = job.spec.job.name
    if job.election not in aliases:
        text = f"LEADER_ELECTIONS has no {job.election!r}, so the job {name!r} of {job.where} does not run"
        hint = f"Declare the election, or give the job one of: {', '.join(map(repr, aliases))}."
        if job.leaderless:
            hint = f"With election=None give it one of these as using=: {', '.join(map(repr, aliases))}."
        return [Error(text, hint=hint, id="django_leader.E022")]
    if job.leaderless:
        return []  # no hand-over skips its slots
    if job.spec.coroutine and green():
        text = f"LEADER_ELECTIONS[{job.election!r}]: the job {name!r} of {job.where} does not run, because it is a "
        text += "coroutine function, and coroutines cannot run under gevent or eventlet"
        return [Error(text, hint="Make a plain function of it.", id="django_leader.E024")]
    try:
        retry = read(job.election).config.validate().timing.retry
    except ImproperlyConfigured:
        return []  # check_elections reports it
    schedule = job.spec.job.schedule
    slot = schedule.next(0)
    period = (schedule.next(slot) - slot) / 1000
    if period < retry:
        text = f"LEADER_ELECTIONS[{job.election!r}]: the job {name!r} has a slot after {period:g} s, less than "
        text += f"RETRY_INTERVAL ({retry:g} s): a hand-over without a wake-up, as after a crash, skips slots"
        hint = "Give a longer period, or a shorter RETRY_INTERVAL; silence this check if skipped slots do no harm."
        return [Warning(text, hint=hint, id="django_leader.W020")]
    return []
