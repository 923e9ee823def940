"""Touches no table. Django makes content types and permissions only for models it knows from migrations."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """The admin's model without a table."""

    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Election",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False, auto_created=True, verbose_name="ID"))
            ],
            options={
                "verbose_name": "election",
                "verbose_name_plural": "elections",
                "managed": False,
                "default_permissions": ("view",),
            },
        )
    ]
