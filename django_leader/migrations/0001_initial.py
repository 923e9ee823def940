"""Touches no table. Django makes content types and permissions only for models it knows from migrations."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

import django_leader.models


class Migration(migrations.Migration):
    """The admin's model without a table."""

    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Election",
            fields=[("name", models.CharField(max_length=255, primary_key=True, serialize=False))],
            options={
                "verbose_name": "election",
                "verbose_name_plural": "elections",
                "managed": False,
                "default_permissions": ("view",),
                "base_manager_name": "objects",
            },
            managers=[("objects", django_leader.models.NoRows())],
        )
    ]
