"""Where Django meets the package: ``INSTALLED_APPS = [..., "django_leader"]``."""

from __future__ import annotations

from django.apps import AppConfig


class DjangoLeaderConfig(AppConfig):
    """Registers the system checks, and starts the elections where requests are served."""

    name = "django_leader"
    verbose_name = "Leader election"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Runs at the end of ``django.setup()``. Local; opens no connection, never raises."""
        from . import autostart, checks

        checks.register_all()
        autostart.begin()
