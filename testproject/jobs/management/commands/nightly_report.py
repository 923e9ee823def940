"""A command that cron starts on every host, and that runs on one."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from django_leader import elections, leader_required
from testproject.jobs.models import Report


class Command(BaseCommand):
    """Writes a report that takes its time."""

    help = "Writes the nightly report, in one process of the fleet."

    def add_arguments(self, parser: CommandParser) -> None:
        """How long the work takes."""
        parser.add_argument("--seconds", type=float, default=0.0, help="how long the report takes to write")

    @leader_required
    def handle(self, *args: Any, **options: Any) -> None:
        """Works, and says in which term."""
        election = elections["command:nightly_report"]
        token = election.fencing_token or 0
        self.stdout.write(f"writing the report, token {token}")
        self.stdout.flush()
        time.sleep(options["seconds"])
        written = Report.write("nightly", f"by {election.instance_id}", token)
        self.stdout.write("done" if written else "not written: a later leader has been here")
