"""Models with fencing tokens, as a project has them."""

from __future__ import annotations

from typing import Any

from django.db import models

from django_leader import FencedManager, FencedModel, FencedQuerySet


class Author(models.Model):
    name = models.CharField(max_length=20)


class Tag(models.Model):
    name = models.CharField(max_length=20)


class Report(FencedModel):
    name = models.CharField(max_length=20, unique=True)
    text = models.CharField(max_length=200, default="")
    number = models.IntegerField(default=0)
    author = models.ForeignKey(Author, models.CASCADE, null=True, related_name="reports")
    tags = models.ManyToManyField(Tag, related_name="reports")
    updated_at = models.DateTimeField(auto_now=True)
    objects = FencedManager["Report"]()

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.name = self.name.strip()
        super().save(*args, **kwargs)


class LongReport(Report):
    appendix = models.TextField(default="")


class Guard(FencedModel):
    """A row that stands for what one job writes."""

    name = models.CharField(max_length=20, unique=True)


class Entry(models.Model):
    """A row that has no token of its own."""

    text = models.CharField(max_length=20)


class Shouting(FencedQuerySet["Note"]):
    def loud(self) -> Shouting:
        return self.filter(text__endswith="!")


class OfShop(FencedManager["Note"]):
    def get_queryset(self) -> FencedQuerySet[Note]:
        return super().get_queryset().filter(shop=1)


class Note(FencedModel):
    """It has managers of its own, of which the first is the default."""

    text = models.CharField(max_length=20)
    shop = models.IntegerField(default=1)
    objects = OfShop()
    shouting = Shouting.as_manager()


class Plain(models.Model):
    """It inherits nothing, and has tokens that are fit and tokens that are not."""

    text = models.CharField(max_length=20, default="")
    token = models.CharField(max_length=20, default="")
    term = models.BigIntegerField(default=0)
    small = models.PositiveIntegerField(default=0)
    unknown = models.BigIntegerField(null=True)
