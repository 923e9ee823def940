"""A model without a table: it gives the admin page its place in the index, and its permission.

Code that goes through all models of a project (``dumpdata``, a loop over ``apps.get_models()``) finds it, too. So it
answers as a table without rows would, and sends the database nothing.

NOT guaranteed here: that SQL which names the table works. There is no table.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from django.db import NotSupportedError, models
from django.utils.translation import pgettext_lazy

REFUSED = "elections are not in the database: they are declared in the setting LEADER_ELECTIONS"


class NoRowsQuerySet(models.QuerySet["Election"]):
    """A queryset that refuses every insert."""

    def _insert(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotSupportedError(REFUSED)  # save, create, bulk_create and loaddata all come here


class NoRows(models.Manager.from_queryset(NoRowsQuerySet)):  # type: ignore[misc]
    """A manager that finds nothing, without asking the database."""

    use_in_migrations = True  # a data migration can go through all models, too

    def get_queryset(self) -> NoRowsQuerySet:
        """Return the empty queryset, for any database. Local."""
        empty: NoRowsQuerySet = super().get_queryset().none()
        return empty


class Election(models.Model):
    """The elections in the admin. There are no rows."""

    name = models.CharField(max_length=255, primary_key=True)  # not a number, which would have a sequence to reset

    objects: ClassVar[NoRows] = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ("view",)
        verbose_name = pgettext_lazy("leader election", "election")
        verbose_name_plural = pgettext_lazy("leader election", "elections")

    def __str__(self) -> str:
        return self.name

    def delete(self, using: str | None = None, keep_parents: bool = False) -> NoReturn:
        """Raise ``NotSupportedError``: there is nothing to delete. Local."""
        raise NotSupportedError(REFUSED)
