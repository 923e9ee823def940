"""A model without a table: it gives the admin page its place in the index, and its permission."""

from __future__ import annotations

from django.db import models


class Election(models.Model):
    """Stands for the elections in the admin. There are no rows."""

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "election"
        verbose_name_plural = "elections"
