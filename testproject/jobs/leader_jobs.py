"""The jobs of the leader: one for each second, and where Django has tasks, one of these."""

from __future__ import annotations

from datetime import timedelta

import django
from django.conf import settings
from django.utils import timezone

from django_leader import Run, elections, periodic
from testproject.jobs import models

KEPT = timedelta(hours=1)
"""How long the rows of runs are kept."""


def every_second(run: Run) -> None:
    """Leave a row for the slot."""
    models.Run.objects.create(
        job=run.name,
        instance_id=elections["default"].instance_id,
        fencing_token=run.token,
        scheduled_for=run.scheduled_for,
    )


def forget_old_runs() -> None:
    """Delete the rows of old runs."""
    models.Run.objects.filter(at__lt=timezone.now() - KEPT).delete()


if getattr(settings, "WITH_JOBS", True):  # not where another project uses these settings, and has no table
    periodic(every=1, grace=1, name="every second")(every_second)
    if django.VERSION >= (6, 0):
        from django.tasks import task

        periodic(every=60)(task(forget_old_runs))
