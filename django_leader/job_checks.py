"""System checks of the jobs: what ``@periodic`` cannot know where it stands. They connect to nothing."""

from __future__ import annotations

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from .conf import configured
from .registry import MODULE, Registered, jobs
from .settings import read


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
    try:
        aliases = list(configured())
    except ImproperlyConfigured:
        return messages  # check_elections reports it
    for job in found:
        messages += _check_one(job, aliases)
    return messages


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
