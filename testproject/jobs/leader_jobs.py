"""The jobs of the leader: one for each second, and where Django has tasks, one of these."""

from __future__ import annotations

from datetime import timedelta

import django
from django.utils import timezone

from django_leader import Run, elections, periodic
from testproject.jobs import models

EVERY_SECOND = "every second"
"""The name of the job, in Redis and in its rows."""
KEPT = timedelta(hours=1)
"""How long the rows of runs are kept."""


@periodic(every=1, grace=1, name=EVERY_SECOND)
def every_second(run: Run) -> None:
    """Leave a row for the slot."""
    models.Run.objects.create(
        job=run.name,
        instance_id=elections["default"].instance_id,
        fencing_token=run.token,
        scheduled_for=run.scheduled_for,
    )


if django.VERSION >= (6, 0):
    from django.tasks import task

    @periodic(every=60)
    @task
    def forget_old_runs() -> None:
        """Delete the rows of old runs."""
        models.Run.objects.filter(at__lt=timezone.now() - KEPT).delete()
