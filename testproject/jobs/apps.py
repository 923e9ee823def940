"""The jobs, and what the project does when leadership changes."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import AppConfig

logger = logging.getLogger("django_leader.testproject")


def on_became_leader(*, using: str, fencing_token: int, **kwargs: Any) -> None:
    """Start a scheduler, in a real project: for its web processes, not for a command's own election."""
    if using == "default":
        logger.info("scheduler started, token %d", fencing_token)


def on_lost_leadership(*, using: str, fencing_token: int, reason: str, **kwargs: Any) -> None:
    """Stop the scheduler, in a real project."""
    if using == "default":
        logger.info("scheduler stopped, token %d: %s", fencing_token, reason)


class JobsConfig(AppConfig):
    """Connects the receivers, which is all that a project has to do."""

    name = "testproject.jobs"

    def ready(self) -> None:
        """Run in every process; only the leader's receivers are ever called."""
        from django_leader import became_leader, lost_leadership

        became_leader.connect(on_became_leader)
        lost_leadership.connect(on_lost_leadership)
