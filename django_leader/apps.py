"""Where Django meets the package: ``INSTALLED_APPS = [..., "django_leader"]``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, register

from .startup import starter


class DjangoLeaderConfig(AppConfig):
    """Registers the system checks, and starts the elections where requests are served."""

    name = "django_leader"
    verbose_name = "Leader election"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Runs at the end of ``django.setup()``. Local; opens no connection, never raises."""
        register(check_elections)
        register(check_process)
        register(check_deployment, deploy=True)
        starter.begin()


# The checks import what most processes never need, so only whoever runs them imports them.


def check_elections(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Every setting of every election."""
    from . import checks

    return checks.check_elections()


def check_process(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """What keeps every election from starting in this process."""
    from . import checks

    return checks.check_process()


def check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Advice for production."""
    from . import checks

    return checks.check_deployment()
