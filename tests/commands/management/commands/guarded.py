from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from django_leader import leader_required

runs: list[dict[str, Any]] = []


class Command(BaseCommand):
    """A command whose ``handle`` is decorated without arguments."""

    help = "Help of the guarded command."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--option", default="x")

    @leader_required
    def handle(self, *args: Any, **options: Any) -> str:
        runs.append(options)
        return "done"
