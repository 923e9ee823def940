"""The app of this package: ``INSTALLED_APPS = [..., "django_leader"]``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, register
from django.utils.translation import pgettext_lazy

from .startup import starter


class DjangoLeaderConfig(AppConfig):
    """The app, which registers the system checks, and starts the elections where requests are served."""

    name = "django_leader"
    verbose_name = pgettext_lazy("leader election", "Leader election")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks and start the elections, at the end of ``django.setup()``.

        Local; opens no connection, never raises.
        """
        register(check_elections)
        register(check_process)
        register(check_jobs)
        register(check_deployment, deploy=True)
        starter.begin()


# The checks import modules that most processes never need, so they are imported only when they are run.


def check_elections(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check every setting of every election."""
    from . import checks

    return checks.check_elections()


def check_process(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check what keeps every election from starting in this process."""
    from . import checks

    return checks.check_process()


def check_jobs(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check the jobs of all apps."""
    from . import job_checks

    return job_checks.check_jobs()


def check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Give advice for production."""
    from . import checks

    return checks.check_deployment()
