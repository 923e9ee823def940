"""A periodic job in the web process: every process has the timer, only the leader works."""

from __future__ import annotations

import logging
import threading
import time

from django.db import close_old_connections

from django_leader import elections, is_leader

PERIOD = 0.5
"""Seconds."""

logger = logging.getLogger("django_leader.testproject")


def start() -> None:
    """Start the timer, in a daemon thread."""
    threading.Thread(target=_work, name="periodic job", daemon=True).start()


def _work() -> None:
    from testproject.jobs.models import Run

    while True:
        time.sleep(PERIOD)
        if is_leader():
            election = elections["default"]
            try:
                token = election.fencing_token
                if token is not None:
                    Run.objects.create(job="periodic", instance_id=election.instance_id, fencing_token=token)
            except Exception:
                logger.exception("the periodic job failed")
            finally:
                close_old_connections()
