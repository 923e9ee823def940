"""What the jobs leave behind."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Run(models.Model):
    """One run of a job. Its token tells in which term it was done."""

    job = models.CharField(max_length=50)
    instance_id = models.CharField(max_length=255)
    fencing_token = models.BigIntegerField()
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects: ClassVar[models.Manager[Run]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.job} by {self.instance_id}"
