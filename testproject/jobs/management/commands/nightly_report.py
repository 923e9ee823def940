"""A command that cron starts on every host, and that runs on one."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from django_leader import elections, leader_required


class Command(BaseCommand):
    """Pretends to write a report."""

    help = "Writes the nightly report, in one process of the fleet."

    def add_arguments(self, parser: CommandParser) -> None:
        """How long the work takes."""
        parser.add_argument("--seconds", type=float, default=0.0, help="how long the report takes to write")

    @leader_required
    def handle(self, *args: Any, **options: Any) -> None:
        """Works, and says in which term."""
        token = elections["command:nightly_report"].fencing_token
        self.stdout.write(f"writing the report, token {token}")
        self.stdout.flush()
        time.sleep(options["seconds"])
        self.stdout.write("done")
