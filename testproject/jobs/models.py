"""What the jobs leave behind."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from django_leader.fencing import fenced_update


class Run(models.Model):
    """One run of a job. Its token tells in which term it was done."""

    job = models.CharField(max_length=50)
    instance_id = models.CharField(max_length=255)
    fencing_token = models.BigIntegerField()
    at = models.DateTimeField(auto_now_add=True, db_index=True)
    scheduled_for = models.DateTimeField(null=True)
    """The slot, if the leader has run it on a schedule."""

    objects: ClassVar[models.Manager[Run]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.job} by {self.instance_id}"


class Report(models.Model):
    """What a job writes, and must not write over with something older: it refuses a leader whose term is over."""

    name = models.CharField(max_length=50, unique=True)
    text = models.TextField(default="")
    fencing_token = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager[Report]] = models.Manager()

    def __str__(self) -> str:
        return self.name

    @classmethod
    def write(cls, name: str, text: str, fencing_token: int) -> bool:
        """Write, unless a later leader has already done so. Return whether it has."""
        cls.objects.get_or_create(name=name)
        return fenced_update(cls.objects.filter(name=name), token=fencing_token, text=text) == 1
